"""Who signs a bundle, and how are its files written down for that?

The signature is the OpenSSF model signing format's, by an ECDSA P-256 key: one in a file, or one that only a command
can use (an HSM, a cloud's key service). The package `model-signing` builds what is signed and the file around the
signature; it has no place for a signer of one's own, so its signer for keys gets a key that knows how to sign.

Does not know what is in the bundle: it gets names and hashes. `edge_agent/signature.py` verifies.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from edge_agent.bundle_paths import SIGNATURE_NAME
from edge_agent.signature import CURVE, HOW_TO_INSTALL, MAX_KEY_BYTES
from exporter.errors import SigningError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey, EllipticCurveSignatureAlgorithm

COMMAND_S: Final = 120.0  # a person may have to touch a token
MAX_SIGNATURE_BYTES: Final = 1024
MAX_SAID_BYTES: Final = 64 * 1024  # of a command's stdout and stderr
LAST_WORDS_S: Final = 5.0  # what it started may hold its pipes open


class SigningKey(Protocol):
    """What signs: a private key, or something that has the use of one."""

    def public_key(self) -> EllipticCurvePublicKey: ...

    def sign(self, data: bytes, signature_algorithm: EllipticCurveSignatureAlgorithm) -> bytes: ...


class Signing:
    """Makes the signature of a bundle by one key; what `edge_agent.bundle.write_bundle` takes for `sign`."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    def __call__(self, name: str, files: Mapping[str, str]) -> bytes:
        """The bytes of `model.sig` for the bundle `name` with `files` (SHA-256 by path). Raises SigningError."""
        try:
            from model_signing import manifest
            from model_signing._hashing.hashing import Digest
            from model_signing._signing import sign_ec_key, signing
        except ImportError as error:
            raise SigningError(f"model-signing cannot be imported ({error}): {HOW_TO_INSTALL}") from None

        class Held(sign_ec_key.Signer):  # type: ignore[misc, unused-ignore]  # its own reads a file
            def __init__(self, key: Any) -> None:
                self._private_key = key

        items = [
            manifest.FileManifestItem(path=PurePosixPath(path), digest=Digest("sha256", bytes.fromhex(sha256)))
            for path, sha256 in files.items()
        ]
        how = manifest.SerializationType.from_args(
            # Else other tools that verify would take the signature for a file that was not signed.
            {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE_NAME]}
        )
        signed: Any = Held(self._key).sign(signing.Payload(manifest.Manifest(name, items, how)))
        text: str = signed.bundle.to_json()
        return text.encode()


class CommandKey:
    """A key that a command has the use of: it gets the bytes to sign on stdin, and gives the signature on stdout.

    The signature is ECDSA over SHA-256 of these bytes, in DER, as `openssl dgst -sha256 -sign` writes it. The command
    runs without a shell, and may take `COMMAND_S`.
    """

    def __init__(self, command: str, public_key: Path) -> None:
        """Raises SigningError for a command that cannot be split, or a file that is no public key."""
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise SigningError(f"the signing command cannot be read: {error}") from None
        if not self._arguments:
            raise SigningError("the signing command is empty")
        self._public_key = _load_public(public_key)

    def public_key(self) -> EllipticCurvePublicKey:
        return self._public_key

    def sign(self, data: bytes, signature_algorithm: EllipticCurveSignatureAlgorithm) -> bytes:
        """What the command gives, once the public key has verified it. Raises SigningError."""
        from cryptography.exceptions import InvalidSignature

        program = self._arguments[0]  # what follows may be secret
        try:
            code, signature, error_said = _run(self._arguments, data)
        except subprocess.TimeoutExpired:
            raise SigningError(f"{program} gave no signature within {COMMAND_S:.0f} s") from None
        except (OSError, ValueError) as error:
            raise SigningError(f"{program} cannot be run: {error}") from None
        if len(signature) > MAX_SIGNATURE_BYTES:
            raise SigningError(f"{program} gave more than {MAX_SIGNATURE_BYTES} bytes, a signature has about 71")
        if code != 0:
            said = " ".join(error_said.decode(errors="replace").split())[:300]
            raise SigningError(f"{program} ended with {code} and no signature: {said or 'it says nothing'}")
        try:
            self._public_key.verify(signature, data, signature_algorithm)
        except InvalidSignature:
            raise SigningError(
                f"{program} gave {len(signature)} bytes that are no signature by the public key given: "
                "ECDSA over SHA-256 in DER is needed"
            ) from None
        return signature


def _run(arguments: list[str], data: bytes) -> tuple[int, bytes, bytes]:
    """The exit code, and the beginning of what it wrote on stdout and stderr; more is not read, and not waited for.

    Raises OSError, subprocess.TimeoutExpired.
    """
    with tempfile.TemporaryFile() as given:
        given.write(data)
        given.seek(0)
        # Not as a context: that would wait for whoever the command left behind with its pipes.
        process = subprocess.Popen(arguments, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said: dict[int, bytes] = {}
    readers = []
    for number, stream in enumerate((process.stdout, process.stderr)):
        assert stream is not None
        readers.append(threading.Thread(target=_read_beginning, args=(stream, said, number), daemon=True))
        readers[-1].start()
    try:
        code = process.wait(COMMAND_S)
    finally:
        process.kill()  # does nothing where it has ended
        process.wait()
    for reader in readers:
        reader.join(LAST_WORDS_S)
    return code, said.get(0, b""), said.get(1, b"")


def _read_beginning(stream: IO[bytes], said: dict[int, bytes], number: int) -> None:
    """A command that goes on writing is ended by its closed pipe."""
    with stream:
        said[number] = stream.read(MAX_SAID_BYTES)


def is_encrypted(path: Path) -> bool:
    """Whether a passphrase is needed to read this private key. Raises SigningError."""
    pem = _read(path)
    return b"ENCRYPTED" in pem


def private_key(path: Path, passphrase: str | None) -> SigningKey:
    """The ECDSA P-256 key in a PEM file, PKCS #8 or as `openssl ecparam` writes it. Raises SigningError."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise SigningError(f"cryptography cannot be imported ({error}): {HOW_TO_INSTALL}") from None
    pem = _read(path)
    if b"ENCRYPTED" not in pem:
        passphrase = None
    elif passphrase is None:
        raise SigningError(
            f"{path} needs a passphrase: give --sign-passphrase-file, or EDGE_SIGN_PASSPHRASE in the environment"
        )
    try:
        key = load_pem_private_key(pem, None if passphrase is None else passphrase.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "wrong passphrase, or no" if passphrase is not None else "no"
        raise SigningError(f"{path}: {why} private key in PEM ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != CURVE:
        raise SigningError(f"{path} is no ECDSA P-256 key: `openssl ecparam -name prime256v1 -genkey` makes one")
    return key


def _load_public(path: Path) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from edge_agent.signature import trusted_key

    key: Any = load_pem_public_key(trusted_key(_read(path), str(path)).pem)
    public: EllipticCurvePublicKey = key
    return public


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            pem = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise SigningError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(pem) > MAX_KEY_BYTES:
        raise SigningError(f"{path} is larger than {MAX_KEY_BYTES} bytes: no key")
    return pem
