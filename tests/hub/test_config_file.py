"""Options from a file: what is taken, what is refused, and what wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hub.config_file import FILE_OR_NAME, FILE_OR_URL, config_option, values_of


def group() -> click.Group:
    """A program of two commands that take a file, and one that does not."""

    @click.group()
    def program() -> None:
        pass

    @program.command()
    @click.option("--name", default="none", envvar="TEST_NAME")
    @click.option("--count", type=click.IntRange(1, 10), default=1)
    @click.option("--share", type=float, default=0.5)
    @click.option("--loud", is_flag=True)
    @click.option("--bundle", "bundles", multiple=True, type=click.Path(path_type=Path))
    @click.option("--store", type=FILE_OR_URL)
    @click.option("--model", type=FILE_OR_NAME)
    @config_option
    @click.version_option("1")
    def serve(**given: Any) -> None:
        click.echo(json.dumps(given, default=str))

    @program.command()
    @click.option("--name", required=True)
    @click.option("--only-here", type=int)
    @config_option
    def show(**given: Any) -> None:
        click.echo(json.dumps(given))

    @program.command()
    @click.option("--unrelated")
    def other(**given: Any) -> None: ...

    return program


def run(folder: Path, text: str | bytes, *arguments: str, command: str = "serve", **environment: str) -> Any:
    path = folder / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return CliRunner().invoke(group(), [command, "--config", str(path), *arguments], env=environment)


def test_options_by_their_long_names(tmp_path: Path) -> None:
    """Each type, a list, and paths that are relative to the file; what is no path stays as it is."""
    (tmp_path / "here").mkdir()
    text = 'name = "a"\ncount = 3\nshare = 1\nloud = true\nbundle = ["b", "/c"]\nstore = "s.db"\nmodel = "here"\n'
    document = json.loads(run(tmp_path, text).stdout)
    expected = {"name": "a", "count": 3, "share": 1.0, "loud": True, "bundles": [f"{tmp_path}/b", "/c"]}
    assert document == {**expected, "store": f"{tmp_path}/s.db", "model": f"{tmp_path}/here"}
    document = json.loads(run(tmp_path, 'bundle = "b"\nstore = "sqlite://x"\nmodel = "org/name"').stdout)
    assert document["bundles"] == [f"{tmp_path}/b"]
    assert (document["store"], document["model"]) == ("sqlite://x", "org/name")


def test_command_line_and_environment_win(tmp_path: Path) -> None:
    """The file is only where neither of them says anything."""
    text = 'name = "file"\ncount = 3'
    assert json.loads(run(tmp_path, text, "--name", "line").stdout)["name"] == "line"
    assert json.loads(run(tmp_path, text, TEST_NAME="environment").stdout)["name"] == "environment"
    assert json.loads(run(tmp_path, text, "--name", "line").stdout)["count"] == 3


def test_one_file_for_several_commands(tmp_path: Path) -> None:
    """What only another command has is checked and left to it; a required option may stand in the file."""
    done = run(tmp_path, 'name = "a"\ncount = 3\nloud = true', command="show")
    assert json.loads(done.stdout) == {"name": "a", "only_here": None}
    assert "count needs a whole number" in run(tmp_path, 'name = "a"\ncount = "3"', command="show").output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1", "'colour' is no option; known are bundle, count, loud, model, name, only-here, share, store"),
        ("unrelated = 1", "is no option"),
        ('config = "again.toml"', "'config' is no option"),
        ("version = true", "'version' is no option"),
        ("name = 1", "name needs a text, in quotes, got 1"),
        ("count = 1.5", "count needs a whole number"),
        ("count = true", "count needs a whole number"),
        ('share = "1"', "share needs a number"),
        ('loud = "yes"', "loud needs true or false"),
        ("bundle = [1]", "bundle needs a text"),
        ('name = ["a"]', "name needs a text"),
        ("count = 11", "11 is not in the range"),
        ("name = ", "no configuration in TOML"),
        (b"name = '\xff'", "no configuration in TOML"),
        ("a=" + "[" * 5000, "no configuration in TOML"),
        ("#" * 1_000_001, "more than"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """Unknown keys and wrong types, with what is known: in a line, and nothing is done."""
    done = run(tmp_path, text)
    assert done.exit_code in (1, 2)
    assert words in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """One line, exit code 1."""
    done = CliRunner().invoke(group(), ["serve", "--config", str(tmp_path / "none.toml")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cannot be read: No such file" in done.stderr


@given(st.one_of(st.binary(max_size=60), st.text("name='\"=[]{}\n#.1tru", max_size=60).map(str.encode)))
def test_whatever_a_file_holds_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    """Any bytes: values of known options come out, or a ValueError of one line."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text)
    options = {"name": click.Option(["--name"]), "t": click.Option(["--t"], is_flag=True)}
    why, values = "", {}
    try:
        values = values_of(path, options)
    except ValueError as error:
        why = str(error)
    assert "\n" not in why
    assert set(values) <= {"name", "t"}
    assert isinstance(values.get("name", ""), str)
    assert isinstance(values.get("t", True), bool)
