"""Who signed these files? The signature is the OpenSSF model signing format's, by a plain ECDSA P-256 key.

`model.sig` is a Sigstore bundle: an in-toto statement that lists every file with its SHA-256, in a DSSE envelope, and a
hint at the key (https://github.com/ossf/model-signing-spec). The package `model-signing` verifies the envelope; it is
imported only when there is something to verify, because it takes a second on a small device. What it lets pass and we
do not: files that it would ignore (`.git` by default), entries given twice, keys other than P-256.

Works on bytes and names; reads no bundle. Knows nothing of private keys: `exporter/signing.py` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from edge_agent.bundle_paths import SIGNATURE_NAME
from edge_agent.errors import BundleError, InputError, RuntimeUnavailable
from edge_agent.manifest import Sha256

MAX_KEY_BYTES: Final = 16 * 1024
CURVE: Final = "secp256r1"
HOW_TO_INSTALL: Final = "install edgefleet[signing]"


class TrustedKey(msgspec.Struct, frozen=True):
    """A public key whose signature is taken.

    `fingerprint` is the SHA-256 of its DER (SubjectPublicKeyInfo), `hint` that of its PEM, as signatures hold it.
    """

    name: str
    fingerprint: str
    hint: str
    pem: bytes


class Signer(msgspec.Struct, frozen=True):
    """Whose signature holds: the key by its fingerprint, and the name of the file that it was trusted by."""

    fingerprint: str
    key: str


# --- the form of model.sig ------------------------------------------------------------------------------


class _KeyHint(msgspec.Struct, frozen=True):
    hint: Sha256


class _Material(msgspec.Struct, frozen=True):
    public_key: _KeyHint = msgspec.field(name="publicKey")


class _RawSignature(msgspec.Struct, frozen=True):
    sig: bytes
    keyid: str = ""


class _Envelope(msgspec.Struct, frozen=True):
    payload: bytes
    payload_type: Literal["application/vnd.in-toto+json"] = msgspec.field(name="payloadType")
    signatures: tuple[_RawSignature]


class _SignatureFile(msgspec.Struct, frozen=True):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = msgspec.field(name="mediaType")
    material: _Material = msgspec.field(name="verificationMaterial")
    envelope: _Envelope = msgspec.field(name="dsseEnvelope")


class _Resource(msgspec.Struct, frozen=True):
    name: str
    algorithm: Literal["sha256"]
    digest: Sha256


class _Serialization(msgspec.Struct, frozen=True):
    method: Literal["files"]
    hash_type: Literal["sha256"]


class _Predicate(msgspec.Struct, frozen=True):
    serialization: _Serialization
    resources: tuple[_Resource, ...]


class _Statement(msgspec.Struct, frozen=True):
    kind: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    predicate_type: Literal["https://model_signing/signature/v1.0"] = msgspec.field(name="predicateType")
    predicate: _Predicate


# --- keys -----------------------------------------------------------------------------------------------


def read_trusted(paths: Sequence[Path]) -> tuple[TrustedKey, ...]:
    """The public keys in these PEM files, each once. Raises InputError, or RuntimeUnavailable without the package."""
    keys: dict[str, TrustedKey] = {}
    for path in paths:
        try:
            with open(path, "rb") as file:
                pem = file.read(MAX_KEY_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
        key = trusted_key(pem, str(path))
        keys.setdefault(key.fingerprint, key)
    return tuple(keys.values())


def trusted_key(pem: bytes, name: str) -> TrustedKey:
    """The key in these bytes; `name` is said of it. Raises InputError for what is no public ECDSA P-256 key."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
    except ImportError as error:
        raise RuntimeUnavailable(f"cryptography cannot be imported ({error}): {HOW_TO_INSTALL}") from None
    if b"PRIVATE KEY" in pem:
        raise InputError(f"{name} is a private key: trust the public one that `openssl pkey -pubout` makes of it")
    try:
        key = load_pem_public_key(pem) if len(pem) <= MAX_KEY_BYTES else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != CURVE:
        raise InputError(f"{name} is no public ECDSA P-256 key in PEM")
    der, normal = (key.public_bytes(form, PublicFormat.SubjectPublicKeyInfo) for form in (Encoding.DER, Encoding.PEM))
    return TrustedKey(name, hashlib.sha256(der).hexdigest(), hashlib.sha256(normal).hexdigest(), normal)


# --- verifying ------------------------------------------------------------------------------------------


def claimed_hint(signature: bytes) -> str:
    """The hint at the key that a signature claims to be made by. Proves nothing. Raises BundleError."""
    hint: str = _decode(signature, _SignatureFile, SIGNATURE_NAME).material.public_key.hint
    return hint


def verify_signature(signature: bytes, files: Mapping[str, str], trusted: Sequence[TrustedKey]) -> Signer:
    """Whose key signed exactly `files` (SHA-256 by path, the manifest's too), as the bytes of `model.sig` say.

    Raises BundleError: signed by nobody who is trusted, a signature that does not hold, files that it does not cover or
    covers otherwise. The hashes in `files` are taken as they are: the caller compares the files with them.
    """
    said = _decode(signature, _SignatureFile, SIGNATURE_NAME)
    hint = said.material.public_key.hint
    key = next((one for one in trusted if one.hint == hint), None)
    if key is None:
        names = ", ".join(f"{one.name} ({one.hint[:12]})" for one in trusted)
        raise BundleError(f"signed by the key {hint[:12]}, which is not trusted: trusted are {names}")
    _verify_envelope(said, key)
    statement = _decode(said.envelope.payload, _Statement, f"the statement in {SIGNATURE_NAME}")
    resources = statement.predicate.resources
    signed = {one.name: one.digest for one in resources}
    if len(signed) != len(resources):
        raise BundleError(f"{SIGNATURE_NAME} lists a file twice")
    for path, sha256 in files.items():
        if path not in signed:
            raise BundleError(f"{path!r} is not signed")
        if signed[path] != sha256:
            raise BundleError(f"{path!r} is not what was signed: SHA-256 {sha256}, signed is {signed[path]}")
    if missing := sorted(signed.keys() - files.keys()):
        raise BundleError(f"{missing[0]!r} was signed, but is missing")
    return Signer(key.fingerprint, key.name)


def _verify_envelope(said: _SignatureFile, key: TrustedKey) -> None:
    """Let `model-signing` check the signature; it gets only what was understood here."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from model_signing._signing import sign_ec_key, sign_sigstore_pb
        from sigstore_models.bundle.v1 import Bundle
    except ImportError as error:
        raise RuntimeUnavailable(f"model-signing cannot be imported ({error}): {HOW_TO_INSTALL}") from None

    class Held(sign_ec_key.Verifier):  # type: ignore[misc, unused-ignore]  # its own reads a file
        def __init__(self, pem: bytes) -> None:
            self._public_key = load_pem_public_key(pem)

    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(said))
    document["verificationMaterial"]["tlogEntries"] = []
    try:
        Held(key.pem).verify(sign_sigstore_pb.Signature(Bundle.from_dict(document)))
    except InvalidSignature:
        raise BundleError(f"the signature does not hold: {key.name} did not sign what {SIGNATURE_NAME} says") from None
    except Exception as error:  # a foreign library on foreign bytes may raise anything
        raise BundleError(
            f"the signature cannot be verified: {' '.join(str(error).split())[:300] or type(error).__name__}"
        ) from None


def _decode(payload: bytes, form: type[Any], what: str) -> Any:
    try:
        return msgspec.json.decode(payload, type=form)
    except RecursionError:
        raise BundleError(f"{what} is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{what}: {error}") from None
