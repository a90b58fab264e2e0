"""README and the documents beside it, held to the code: every command parses, every link and folder exists."""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hub.wire import Topic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/live-page.md",
    "docs/monitoring.md",
    "docs/reporting.md",
    "docs/scaling.md",
    "docs/rollouts.md",
    "docs/security.md",
    "docs/signing.md",
)
ENTRY_POINTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]


def shell_commands(document: str) -> Iterator[list[str]]:
    """Every command of the document's `sh` blocks, as words; a backslash joins lines."""
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line)


COMMANDS = [words for document in DOCUMENTS for words in shell_commands(document)]
OURS = [words for words in COMMANDS if words[0] in ENTRY_POINTS]


def parse(command: click.Command, name: str, words: list[str]) -> None:
    """Parse words as click does before it calls anything, into the last subcommand."""
    context = command.make_context(name, list(words))
    while isinstance(context.command, click.Group):
        step, subcommand, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert subcommand is not None, f"{name} has no command {step}"
        context = subcommand.make_context(step, rest, parent=context)


def allow_missing_files(command: click.Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let paths in examples name files that are not there: an example's bundle is made by the line above it."""
    for parameter in command.params:
        if isinstance(parameter.type, click.Path | click.File):
            monkeypatch.setattr(parameter, "type", click.Path())
    for subcommand in command.commands.values() if isinstance(command, click.Group) else ():
        allow_missing_files(subcommand, monkeypatch)


def test_every_command_of_the_project_has_an_example() -> None:
    """README shows each of the four commands."""
    assert {words[0] for words in OURS} == set(ENTRY_POINTS)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_example_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of our commands is accepted by the command line: subcommands, options and their values."""
    module, _, attribute = ENTRY_POINTS[words[0]].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    allow_missing_files(command, monkeypatch)
    monkeypatch.setattr("hub.config_file.values_of", lambda *_: {})  # that is made by the line above it, too
    with contextlib.suppress(click.exceptions.Exit):  # an eager option such as --list-profiles did its work
        parse(command, words[0], words[1:])


def test_example_that_does_not_exist_is_seen() -> None:
    """The check above refuses an option that a command does not have."""
    command = click.Command("c", params=[click.Option(["--known"])])
    with pytest.raises(click.UsageError):
        parse(command, "c", ["--unknown"])


def test_other_examples_are_make_targets_or_plain_mqtt() -> None:
    """Whatever else the documents tell the reader to run exists: make targets, and topics that we serve."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in COMMANDS:
        if words[0] == "make":
            assert set(words[1:]) <= targets, words
        elif words[0] == "mosquitto_rr":
            for option, kind in (("-t", "ask"), ("-e", "answer")):
                topic = Topic.parse(words[words.index(option) + 1])
                assert topic is not None
                assert topic.kind == kind
        else:
            assert words[0] in ENTRY_POINTS, words


def test_layout_names_every_folder() -> None:
    """The layout section lists the folders of the repository, no more and no fewer."""
    section = (ROOT / "README.md").read_text("utf-8").split("## Layout")[1].split("## ")[0]
    listed = set(re.findall(r"^([a-z_]+)/", section, re.MULTILINE))
    made = {"models", "bundles", "build", "dist"}
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and path.name[0] != "." and not path.name.endswith(".egg-info") and path.name not in made
    }
    assert listed == folders - {"__pycache__"}


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, "CHANGELOG.md", *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md"))]
)
def test_every_relative_link_leads_somewhere(document: str) -> None:
    """Links to files of the repository are not broken."""
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{document}: {target}"


def test_index_of_decisions_is_complete() -> None:
    """Every decision is a dated file that the index lists."""
    folder = ROOT / "docs" / "decisions"
    files = {path.name for path in folder.glob("*.md")} - {"README.md"}
    assert files == set(re.findall(r"\]\(([^)]+\.md)\)", (folder / "README.md").read_text("utf-8")))
    assert [name for name in files if not re.match(r"\d{4}-\d\d-\d\d-", name)] == []


def test_extras_table_is_complete() -> None:
    """README describes every extra that pyproject.toml declares."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    section = (ROOT / "README.md").read_text("utf-8").split("## Install on a device")[1].split("## ")[0]
    described = re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)
    assert set(described) == set(table["project"]["optional-dependencies"])
