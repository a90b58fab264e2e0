"""Who signed: keys that are trusted, and signatures of other tools. Signatures that are refused: hostile_bundles.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from model_signing import hashing, signing

from edge_agent.bundle import open_bundle
from edge_agent.errors import BundleError, InputError
from edge_agent.signature import claimed_hint, read_trusted, verify_signature

from exporter.signing import Signing  # isort: skip

FILES = {"manifest.json": "0" * 64, "model/decoder.onnx": "1" * 64}


def key_files(
    folder: Path, name: str, curve: ec.EllipticCurve | None = None
) -> tuple[ec.EllipticCurvePrivateKey, Path]:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key, folder / f"{name}.pub"


def test_either_of_two_trusted_keys_will_do(tmp_path: Path) -> None:
    """While keys are changed, bundles of the old and the new are opened, and it is said by which."""
    old, old_file = key_files(tmp_path, "old")
    new, new_file = key_files(tmp_path, "new")
    trusted = read_trusted([old_file, new_file])
    for key, file, place in ((old, old_file, 0), (new, new_file, 1)):
        signer = verify_signature(Signing(key)("b", FILES), FILES, trusted)
        assert (signer.key, signer.fingerprint) == (str(file), trusted[place].fingerprint)
    with pytest.raises(BundleError, match=r"not trusted: trusted are .*old\.pub"):
        verify_signature(Signing(new)("b", FILES), FILES, trusted[:1])


@pytest.mark.openssl
def test_the_fingerprint_is_what_openssl_says(tmp_path: Path) -> None:
    """`openssl pkey -pubin -outform DER | sha256sum`, so that a maker can say it on the telephone."""
    _, file = key_files(tmp_path, "maker")
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", file, "-outform", "DER"], capture_output=True, check=True, timeout=20
    ).stdout
    digest = subprocess.run(["sha256sum"], input=der, capture_output=True, check=True, timeout=20).stdout.decode()
    (key,) = read_trusted([file])
    assert digest.split()[0] == key.fingerprint


def test_a_key_given_twice_is_one(tmp_path: Path) -> None:
    """Under two names, too."""
    _, file = key_files(tmp_path, "maker")
    (tmp_path / "copy.pub").write_bytes(file.read_bytes())
    assert [key.name for key in read_trusted([file, tmp_path / "copy.pub"])] == [str(file)]


def test_what_is_no_key_to_trust_is_refused(tmp_path: Path) -> None:
    """Private keys, other curves and other kinds of keys, with the file."""
    key, _ = key_files(tmp_path, "maker")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _, larger = key_files(tmp_path, "larger", ec.SECP384R1())
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    for name, payload, words in (
        ("private", private, "is a private key"),
        ("larger", larger.read_bytes(), "no public ECDSA P-256 key"),
        ("edwards", edwards.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "no public ECDSA P-256"),
        ("empty", b"", "no public ECDSA P-256 key"),
        ("huge", b"-" * 100_000, "no public ECDSA P-256 key"),
    ):
        (tmp_path / name).write_bytes(payload)
        with pytest.raises(InputError, match=words) as refusal:
            read_trusted([tmp_path / name])
        assert str(tmp_path / name) in str(refusal.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_trusted([tmp_path / "gone"])


def test_what_another_tool_signed_is_opened(tiny_bundle: Path, tmp_path: Path) -> None:
    """`model-signing` as its users call it, with the files of Git that it would ignore: they do not come in by that."""
    import shutil

    key, public = key_files(tmp_path, "maker")
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    config = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key")
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig"])).sign(
        bundle, bundle / "model.sig"
    )
    trusted = read_trusted([public])
    signer = open_bundle(bundle, trusted).signer
    assert signer is not None
    assert signer.fingerprint == trusted[0].fingerprint
    (bundle / ".gitignore").write_text("x")
    with pytest.raises(BundleError, match="gitignore"):
        open_bundle(bundle, trusted)


def test_a_claim_is_read_without_any_key(tmp_path: Path) -> None:
    """The hint is the SHA-256 of the PEM, as `sha256sum maker.pub` says it."""
    key, file = key_files(tmp_path, "maker")
    assert claimed_hint(Signing(key)("b", FILES)) == read_trusted([file])[0].hint
    with pytest.raises(BundleError, match=r"model\.sig"):
        claimed_hint(b"{}")


def test_nothing_heavy_is_imported_before_there_is_a_key() -> None:
    """A second on a small device, for whoever does not verify."""
    script = (
        "import sys, edge_agent.bundle, edge_agent.cli, edge_agent.serve\n"
        "print(sorted({'model_signing', 'cryptography', 'sigstore'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
