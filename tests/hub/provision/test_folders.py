"""The directory of an identity: its files, and a configuration that the matching command takes."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click
import pytest

from edge_agent.cli import main as edge_agent
from hub.ask_cli import main as edge_ask
from hub.cli import main as edge_hub
from hub.provision.authority import Issued
from hub.provision.folders import config_of, folder_of
from hub.provision.subject import Role, Subject

ISSUED = Issued(b"cert", b"key", 1, dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc))


@pytest.mark.parametrize("secret", [None, "s" * 64])
def test_what_lies_in_it(secret: str | None) -> None:
    """Secrets are its owner's alone."""
    files = folder_of(Subject("node", "n1"), ISSUED, b"ca", "mqtts://h:1", secret)
    assert {name for name, (_, mode) in files.items() if mode == 0o600} == {
        "key.pem",
        *(["session.key"] if secret else []),
    }
    assert (files["key.pem"][0], files["cert.pem"][0], files["ca.pem"][0]) == (b"key", b"cert", b"ca")


@pytest.mark.parametrize(
    ("command", "words", "role", "expected"),
    [
        (edge_ask, ["why?"], "device", {"device": "a"}),
        (edge_agent.commands["serve"], ["--bundle", "b"], "node", {"node": "a", "device": "den"}),
        (edge_hub.commands["serve"], [], "hub", {"name": "a"}),
    ],
)
def test_its_command_takes_the_file(
    tmp_path: Path, command: click.Command, words: list[str], role: Role, expected: dict[str, str]
) -> None:
    """Every key of it is an option of the command, and paths are those of the directory."""
    subject = Subject(role, "a", "den" if role == "node" else None)
    path = tmp_path / "config.toml"
    path.write_text(config_of(subject, "mqtts://h:1", keyed=role != "device"))
    context = command.make_context("c", [*words, "--config", str(path)])
    expected = {**expected, "broker": "mqtts://h:1"}
    assert {name: context.params[name] for name in expected} == expected
    assert context.params["key"] == tmp_path / "key.pem"
    assert context.params.get("session_key") == (None if role == "device" else tmp_path / "session.key")
