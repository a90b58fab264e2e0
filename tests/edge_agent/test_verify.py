"""What `edge-agent verify` says of a signature."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_agent.cli import main
from edge_agent.signature import trusted_key
from edge_agent.verify import verify_bundle
from tests.edge_agent.hostile_bundles import sign


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_without_a_key_a_signature_is_a_claim(bundle: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Nobody, then somebody who says so, then the one whose key was given."""
    nobody = verify_bundle(bundle, ())
    assert (nobody.signature, nobody.line.endswith("not signed")) == ("none", True)
    sign(bundle, key)
    claimed = verify_bundle(bundle, ())
    assert (claimed.signature, claimed.signer) == ("unchecked", None)
    assert "not checked" in claimed.line
    trusted = trusted_key(pem(key), "maker.pub")
    verified = verify_bundle(bundle, (trusted,))
    assert verified.signature == "verified"
    assert verified.line.endswith(f"signed by maker.pub, SHA-256 {trusted.fingerprint}")
    assert claimed.claimed_key == trusted.hint


def test_the_command_ends_with_1_where_nobody_trusted_signed(
    bundle: Path, key: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    """With --trust, one line says why; without, what is whole is whole."""
    (tmp_path / "maker.pub").write_bytes(pem(key))
    trust = ["--trust", str(tmp_path / "maker.pub")]
    assert CliRunner().invoke(main, ["verify", str(bundle)]).exit_code == 0
    refused = CliRunner().invoke(main, ["verify", str(bundle), *trust])
    assert refused.exit_code == 1
    assert "is not signed" in refused.stderr
    assert refused.stderr.count("\n") == 1
    sign(bundle, key)
    taken = CliRunner().invoke(main, ["verify", str(bundle), *trust, "--json"])
    assert taken.exit_code == 0
    assert '"signature":"verified"' in taken.stdout
    assert "signed by" in CliRunner().invoke(main, ["inspect", str(bundle), *trust]).stdout
