"""The options that say who a command is, on each command that has a broker."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edge_agent.cli import main as edge_agent
from hub.ask_cli import main as edge_ask
from hub.cli import main as edge_hub
from hub.errors import LinkError
from hub.identity_options import Identity
from hub.tls import Tls

COMMANDS: list[tuple[click.Command, list[str]]] = [
    (edge_ask, ["why?"]),
    (edge_hub, ["nodes"]),
    (edge_hub, ["drain", "n1"]),
    (edge_hub, ["serve"]),
    (edge_agent, ["serve", "--bundle", "none"]),
]
ids = [" ".join([command.name or "", *words]) for command, words in COMMANDS]


@pytest.mark.parametrize(("command", "words"), COMMANDS, ids=ids)
def test_certificate_and_key_go_together(command: click.Command, words: list[str]) -> None:
    """One without the other is wrong usage."""
    done = CliRunner().invoke(command, [*words, "--broker", "mqtts://h", "--cert", "c.pem"])
    assert done.exit_code == 2
    assert "--cert and --key go together" in done.stderr


@pytest.mark.parametrize(("command", "words"), COMMANDS[:-1], ids=ids[:-1])
def test_files_that_are_not_there(command: click.Command, words: list[str], tmp_path: Path) -> None:
    """One line with the file's name, exit code 1; and certificates do nothing in plain text."""
    ca = str(tmp_path / "ca.pem")
    done = CliRunner().invoke(command, [*words, "--broker", "mqtts://127.0.0.1:1", "--ca", ca])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "ca.pem cannot be read" in done.stderr
    done = CliRunner().invoke(command, [*words, "--broker", "mqtt://127.0.0.1:1", "--ca", ca])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "use mqtts://" in done.stderr


def test_an_embedded_broker_knows_no_certificates() -> None:
    """What would do nothing is refused."""
    done = CliRunner().invoke(edge_hub, ["serve", "--embedded-broker", "1883", "--ca", "ca.pem"])
    assert done.exit_code == 2
    assert "knows no certificates" in done.stderr


def test_files_become_a_broker(tmp_path: Path) -> None:
    """What was given is what the link gets."""
    secret = tmp_path / "session.key"
    secret.write_text("s" * 40)
    at = Identity(Path("a"), Path("c"), Path("k"), secret).at("mqtts://h")
    assert (at.tls, at.secret) == (Tls(Path("a"), Path("c"), Path("k")), "s" * 40)
    assert Identity().at("mqtt://h").tls is None
    assert not Identity().is_given
    with pytest.raises(LinkError):
        Identity(ca=Path("a")).at("mqtt://h")
