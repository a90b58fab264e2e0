"""Where a key's passphrase comes from, and options that do not go together."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, PublicFormat

from exporter.cli import main
from exporter.sign_options import PASSPHRASE_VARIABLE, signing_of, without_signing


@pytest.fixture
def key(tmp_path: Path) -> Path:
    made = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "maker.pem"
    path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hello")))
    (tmp_path / "maker.pub").write_bytes(
        made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return path


def test_a_passphrase_comes_from_a_file_or_the_environment(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file goes first; its last line break is not part of it."""
    (tmp_path / "passphrase").write_text("hello\n")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "goodbye")
    assert signing_of(key, tmp_path / "passphrase", None, None) is not None
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "hello")
    assert signing_of(key, None, None, None) is not None


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_a_key_that_cannot_be_had_is_said_before_the_work(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after an hour of export: even the model is not looked at."""
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    result = run("--model", "none", "--profile", "desktop-cpu", "--output", "o", "--sign", key)
    assert result.exit_code == 1
    assert "needs a passphrase" in result.stderr
    assert result.stderr.count("\n") == 1


def test_options_that_do_not_go_together_are_wrong_usage(key: Path, tmp_path: Path) -> None:
    """Nothing is parsed and then ignored."""
    public = tmp_path / "maker.pub"
    export = ("--model", "m", "--profile", "p", "--output", "o")
    for arguments, words in (
        ((*export, "--sign", key, "--sign-command", "x", "--sign-public-key", public), "one of them signs"),
        ((*export, "--sign-command", "x"), "go together"),
        ((*export, "--sign-public-key", public), "go together"),
        ((*export, "--sign-passphrase-file", public), "does nothing without --sign"),
        ((*export, "--version", "0"), "--version"),
        ((*export, "--version", "5", "--downgrade-from", "4"), "below --version 5"),
        (("--bundle", tmp_path), "needs --sign"),
        (("--bundle", tmp_path, "--model", "m"), "--model does nothing with --bundle"),
        (("--bundle", tmp_path, "--seed", "0"), "--seed does nothing with --bundle"),
        (("--bundle", tmp_path, "--output", "o"), "--output does nothing with --bundle"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert words in result.stderr


def test_a_report_says_nothing_of_who_signs() -> None:
    """A signing command may hold a token, and the report lies in the bundle."""
    told = without_signing(["--model", "m", "--sign-command", "kms --token x", "--sign-public-key=k", "--json"])
    assert told == ["--model", "m", "--json"]
