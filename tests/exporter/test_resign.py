"""Signing a bundle that is there: whole before, whole after, and whole if anything fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge_agent.bundle import open_bundle
from edge_agent.errors import BundleError
from edge_agent.signature import TrustedKey, trusted_key
from exporter import resign as resigning
from exporter.cli import main
from exporter.errors import OutputError, SigningError
from exporter.resign import resign
from exporter.signing import Signing
from tests.edge_agent.hostile_bundles import whole_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_bundle(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def trust(key: ec.EllipticCurvePrivateKey) -> tuple[TrustedKey, ...]:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return (trusted_key(pem, "maker.pub"),)


def test_a_signed_bundle_is_the_same_bundle(
    bundle: Path, key: ec.EllipticCurvePrivateKey, trust: tuple[TrustedKey, ...]
) -> None:
    """Only a signature came, and nothing is left beside it; signed again with a version, only that changes."""
    before = open_bundle(bundle)
    resign(bundle, Signing(key))
    signed = open_bundle(bundle, trust)
    assert signed.manifest == before.manifest
    resign(bundle, Signing(key), version=3, downgrade_from=5)
    again = open_bundle(bundle, trust).manifest
    assert (again.version, again.downgrade_from) == (3, 5)
    assert (again.bundle_id, again.files) == (before.manifest.bundle_id, before.manifest.files)
    resign(bundle, Signing(key))
    assert open_bundle(bundle, trust).manifest == again
    resign(bundle, Signing(key), version=6)
    assert open_bundle(bundle, trust).manifest.downgrade_from is None
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_link_to_the_bundle_stays_one(bundle: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """`current -> v3`: what it leads to is signed."""
    (bundle.parent / "current").symlink_to("bundle")
    resign(bundle.parent / "current", Signing(key))
    assert (bundle.parent / "current").is_symlink()
    assert (bundle / "model.sig").exists()


def test_a_failure_leaves_the_bundle_as_it_was(
    bundle: Path, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signature, an impossible version, or no exchange: the old bundle is whole and nothing lies beside it."""
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}

    def refuse(*_: object) -> bytes:
        raise SigningError("locked")

    def fail(*_: object) -> None:
        raise BundleError("cannot be replaced")

    with pytest.raises(SigningError, match="locked"):
        resign(bundle, refuse)
    with pytest.raises(OutputError, match="downgrade_from 1 is below version 2"):
        resign(bundle, Signing(key), version=2, downgrade_from=1)
    monkeypatch.setattr(resigning, "exchange", fail)
    with pytest.raises(BundleError, match="cannot be replaced"):
        resign(bundle, Signing(key))
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_what_is_no_whole_bundle_is_not_signed(bundle: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """A signature would make it look like one."""
    (bundle / "model/decoder.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="copy the bundle again"):
        resign(bundle, Signing(key))


def test_the_command_says_what_it_did(bundle: Path, key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> None:
    """For a reader or as JSON; a broken bundle is exit code 1."""
    (tmp_path / "k.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    arguments = ["--bundle", str(bundle), "--sign", str(tmp_path / "k.pem")]
    said = json.loads(CliRunner().invoke(main, [*arguments, "--version", "2", "--json"]).stdout)
    assert (said["version"], said["downgrade_from"], said["path"]) == (2, None, str(bundle))
    assert "version 2" in CliRunner().invoke(main, arguments).stdout
    (bundle / "extra").write_text("x")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
