"""`edge-hub provision`: what is printed, exit codes, and passphrases."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hub.cli import main
from hub.provision.cli import PASSPHRASE


def run(folder: Path, *arguments: str, **environment: str) -> Result:
    words = ["provision", *arguments, "--fleet", str(folder / "fleet")]
    return CliRunner().invoke(main, words, env={PASSPHRASE: None, **environment})


def test_a_first_fleet(tmp_path: Path) -> None:
    """Authority, broker, one of each role: each call prints where its directory is, and nothing else on stdout."""
    assert "made the authority, without a passphrase" in run(tmp_path, "init").stdout
    assert "broker/mosquitto.conf" in run(tmp_path, "broker", "--host", "b.example").stdout
    for words, name in (
        (("device", "kitchen"), "device-kitchen"),
        (("node", "n1", "--device", "den"), "node-n1"),
        (("hub", "hub", "--host", "h.example"), "hub-hub"),
    ):
        done = run(tmp_path, *words)
        assert done.exit_code == 0, done.stderr
        assert done.stdout == f"{tmp_path}/fleet/issued/{name}\n"
        assert "mqtts://b.example:8883" in Path(done.stdout.strip(), "config.toml").read_text()
    done = run(tmp_path, "revoke", "n1")
    assert (done.exit_code, "node-n1 is revoked" in done.stdout) == (0, True)


def test_a_broker_stays_what_it_was(tmp_path: Path) -> None:
    """Called again with nothing, or with one option, all else is as before."""
    run(tmp_path, "init")
    run(tmp_path, "broker", "--host", "b.example", "--path", "/etc/fleet", "--max-connections", "7")
    run(tmp_path, "broker", "--port", "1234")
    conf = (tmp_path / "fleet" / "broker" / "mosquitto.conf").read_text()
    assert all(words in conf for words in ("listener 1234", "max_connections 7", "acl_file /etc/fleet/acl"))


def test_passphrases(tmp_path: Path) -> None:
    """From a file or the environment; none, a wrong one and an empty file are one line, exit code 1."""
    right, wrong, empty = (tmp_path / name for name in ("right", "wrong", "empty"))
    for path, text in ((right, "correct horse\n"), (wrong, "battery"), (empty, "\n")):
        path.write_text(text)
    assert run(tmp_path, "init", "--passphrase-file", str(right)).exit_code == 0
    assert "ENCRYPTED" in (tmp_path / "fleet" / "ca.key.pem").read_text()
    assert run(tmp_path, "device", "a", "--passphrase-file", str(right)).exit_code == 0
    assert run(tmp_path, "device", "b", **{PASSPHRASE: "correct horse"}).exit_code == 0
    for options, words in (
        ((), "needs a passphrase"),
        (("--passphrase-file", str(wrong)), "is the passphrase right?"),
        (("--passphrase-file", str(empty)), "is empty"),
        (("--passphrase-file", str(tmp_path / "none")), "cannot be read"),
    ):
        done = run(tmp_path, "device", "c", *options)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith("edge-hub: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("init",), 1, "is there already"),
        (("device", "a b"), 1, "cannot name a device"),
        (("device", "a", "--broker", "mqtt://h"), 2, "must be mqtts://"),
        (("device", "a", "--broker", "mqtts://"), 2, "must be mqtts://"),
        (("device", "a", "--broker", "mqtts://h:99999"), 2, "must be mqtts://"),
        (("device", "a", "--broker", "mqtts://a b"), 2, "must be mqtts://"),
        (("device", "a", "--broker", "mqtts://h\nx"), 2, "must be mqtts://"),
        (("hub", "a", "--host", "h:9810"), 1, "neither a host name nor an address"),
        (("hub", "a", "--host", ""), 1, "neither a host name nor an address"),
        (("broker", "--host", "a b"), 1, "neither a host name nor an address"),
        (("broker", "--path", "etc/fleet"), 1, "a --path that is absolute"),
        (("broker", "--path", "/etc\nallow_anonymous true"), 1, "a --path that is absolute"),
        (("broker", "--path", "/etc\udcff"), 1, "a --path that is absolute"),
        (("broker", "--reload", "9" * 30), 1, "cannot be told to reload"),
        (("device", "a", "--days", "0"), 2, "--days"),
        (("revoke", "nobody"), 1, "no identity 'nobody'"),
        (("device", "a", "--reload", "1", "--pid-file", "p"), 2, "either --reload PID or --pid-file"),
        (("device", "a", "--pid-file", "/nowhere/p"), 1, "cannot be read"),
    ],
)
def test_what_is_refused(tmp_path: Path, words: tuple[str, ...], code: int, message: str) -> None:
    """One line, and the exit code of what it is."""
    run(tmp_path, "init")
    done = run(tmp_path, *words)
    assert (done.exit_code, message in done.stderr) == (code, True)


def test_without_a_fleet(tmp_path: Path) -> None:
    """Says how to make one."""
    done = run(tmp_path, "device", "a")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "`edge-hub provision init" in done.stderr


def test_the_broker_is_told(tmp_path: Path) -> None:
    """SIGHUP to the process number, once all files are written."""
    run(tmp_path, "init")
    told = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda *_: told.set())
    try:
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{os.getpid()}\n")
        for options in (("--reload", str(os.getpid())), ("--pid-file", str(pid_file))):
            told.clear()
            assert run(tmp_path, "device", "a", *options).exit_code == 0
            assert told.wait(5)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_passphrases_that_are_no_text(tmp_path: Path) -> None:
    """Any bytes will do, from a file and from the environment alike, up to what OpenSSL takes."""
    odd, long = tmp_path / "odd", tmp_path / "long"
    odd.write_bytes(b"p\xffw\n")
    long.write_bytes(b"x" * 1024)
    done = run(tmp_path, "init", "--passphrase-file", str(long))
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "at most 1023 bytes" in done.stderr
    assert not (tmp_path / "fleet").exists()
    assert run(tmp_path, "init", **{PASSPHRASE: os.fsdecode(b"p\xffw")}).exit_code == 0
    assert run(tmp_path, "device", "a", "--passphrase-file", str(odd)).exit_code == 0


@pytest.mark.parametrize("secret", ["", "short\n", "\udcff" * 40])
def test_a_secret_that_was_damaged_is_given_to_no_hub(tmp_path: Path, secret: str) -> None:
    """All would take it, and whoever guesses it could take their place."""
    run(tmp_path, "init")
    (tmp_path / "fleet" / "session.key").write_bytes(os.fsencode(secret))
    done = run(tmp_path, "hub", "a", "--host", "h")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "restore a backup" in done.stderr
