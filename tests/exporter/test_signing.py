"""Signing by a key in a file and by a command: what other tools make of it, and what goes wrong in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edge_agent.signature import read_trusted, verify_signature
from exporter import signing
from exporter.errors import SigningError
from exporter.signing import CommandKey, Signing, is_encrypted, private_key

FILES = {"manifest.json": "0" * 64, "model/decoder.onnx": "1" * 64}


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def public(key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "maker.pub"
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture
def secret(key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "maker.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def test_a_key_with_a_passphrase_signs(key: ec.EllipticCurvePrivateKey, public: Path, tmp_path: Path) -> None:
    """In both forms that openssl writes; without its passphrase, or with another, nothing is signed."""
    for name, form in (("pkcs8", PrivateFormat.PKCS8), ("old", PrivateFormat.TraditionalOpenSSL)):
        path = tmp_path / name
        path.write_bytes(key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"hello")))
        assert is_encrypted(path)
        signed = Signing(private_key(path, "hello"))("b", FILES)
        verify_signature(signed, FILES, read_trusted([public]))
        with pytest.raises(SigningError, match="needs a passphrase: give --sign-passphrase-file"):
            private_key(path, None)
        with pytest.raises(SigningError, match="wrong passphrase"):
            private_key(path, "goodbye")


def test_a_passphrase_for_a_key_without_one_is_no_matter(secret: Path) -> None:
    """The environment may hold one for another key."""
    assert not is_encrypted(secret)
    private_key(secret, "unused")


def test_what_is_no_private_key_is_refused(public: Path, tmp_path: Path) -> None:
    """With the file, and how to make one."""
    other = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "rsa").write_bytes(other)
    with pytest.raises(SigningError, match="rsa is no ECDSA P-256 key: `openssl"):
        private_key(tmp_path / "rsa", None)
    with pytest.raises(SigningError, match="no private key in PEM"):
        private_key(public, None)
    with pytest.raises(SigningError, match="cannot be read"):
        private_key(tmp_path / "none", None)
    (tmp_path / "huge").write_bytes(b"-" * 20_000)
    with pytest.raises(SigningError, match="larger than 16384 bytes"):
        private_key(tmp_path / "huge", None)


def test_a_command_signs(public: Path, secret: Path) -> None:
    """openssl is one: the bytes on stdin, the signature on stdout."""
    by = Signing(CommandKey(f"openssl dgst -sha256 -sign {secret}", public))
    verify_signature(by("b", FILES), FILES, read_trusted([public]))


@pytest.fixture
def command(public: Path) -> Callable[[str], CommandKey]:
    """A signing command that is a line of Python."""
    return lambda line: CommandKey(f"{sys.executable} -c '{line}' --token secret", public)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('import sys; sys.exit("the token is locked")', "ended with 1 and no signature: the token is locked"),
        ("import sys; sys.exit(3)", "ended with 3 and no signature: it says nothing"),
        ('print("no signature")', "gave 13 bytes that are no signature by the public key"),
        ('print("x" * 5000)', "gave more than 1024 bytes, a signature has about 71"),
        ('while True: print("x" * 5000)', "gave more than 1024 bytes, a signature has about 71"),
        ('import sys\nwhile True: print("no " * 5000, file=sys.stderr)', "ended with .* and no signature: no no"),
        ("pass", "gave 0 bytes that are no signature"),
    ],
)
def test_a_command_that_fails_makes_no_signature(line: str, words: str, command: Callable[[str], CommandKey]) -> None:
    """One line, without the command's arguments: these may be secret."""
    with pytest.raises(SigningError, match=words) as refusal:
        Signing(command(line))("b", FILES)
    assert "secret" not in str(refusal.value)


def test_a_command_that_hangs_is_ended(command: Callable[[str], CommandKey], monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that nobody touches is no reason to wait for ever."""
    monkeypatch.setattr(signing, "COMMAND_S", 0.2)
    with pytest.raises(SigningError, match="gave no signature within 0 s"):
        Signing(command("import time; time.sleep(60)"))("b", FILES)


@pytest.mark.parametrize(
    ("line", "words"),
    [("", "is empty"), ("'unclosed", "cannot be read"), ("/no/such/program --sign", "/no/such/program cannot be run")],
)
def test_a_command_that_is_none_is_refused(line: str, words: str, public: Path) -> None:
    """Before or at the first signature."""
    with pytest.raises(SigningError, match=words):
        Signing(CommandKey(line, public))("b", FILES)


def test_no_shell_reads_the_command(public: Path, tmp_path: Path) -> None:
    """What a shell would do with it is not done."""
    with pytest.raises(SigningError):
        Signing(CommandKey(f"true; touch {tmp_path}/made $(touch {tmp_path}/made)", public))("b", FILES)
    assert not (tmp_path / "made").exists()


def test_openssl_makes_the_keys_that_the_documentation_shows(tmp_path: Path) -> None:
    """The commands of docs/signing.md, run as they stand."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "signing.md").read_text("utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("openssl ")]
    assert len(lines) >= 3
    for line in lines:
        arguments = line.replace("-aes256", "-aes256 -passout pass:hello -passin pass:hello")
        subprocess.run(["sh", "-c", arguments], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    key = private_key(tmp_path / "maker.pem", "hello")
    verify_signature(Signing(key)("b", FILES), FILES, read_trusted([tmp_path / "maker.pub"]))
