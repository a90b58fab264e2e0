"""How does a command take its options from a file? `--config FILE`, TOML, with the long options' names for keys.

What is given on the command line wins over the file, and so does the environment. A relative path is relative to the
file, so that a directory can be copied as a whole. One file may serve the commands of a program: a key that only
another of them has is checked, and is that one's business. Knows nothing of what the options mean.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OPTION: Final = "config"
_MOST_BYTES: Final = 1_000_000


class EachTime(click.Option):
    """An option that is another each time, so no file gives it: the key of that name there is for another command."""


class Located(click.types.StringParamType):
    """A text that may be a path: a name or a URL otherwise."""

    name = "text"

    def __init__(self, is_path: Callable[[str, Path], bool]) -> None:
        self._is_path = is_path

    def located(self, value: str, folder: Path) -> str:
        """`value` as it was meant in a file of `folder`."""
        return str(folder / value) if self._is_path(value, folder) else value


FILE_OR_URL: Final = Located(lambda value, _: "://" not in value)
FILE_OR_NAME: Final = Located(lambda value, folder: (folder / value).exists())


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--config` to a command."""
    return click.option(
        f"--{OPTION}",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="TOML file with options by their long names; the command line wins. Its paths are relative to it.",
    )(command)


def _read(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None or context.resilient_parsing:
        return
    try:
        context.default_map = values_of(path, _options(context.command), _siblings(context))
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _options(command: click.Command) -> dict[str, click.Option]:
    """By the name without dashes; what only asks for something to be printed is none."""
    return {
        max(option.opts, key=len).removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option)
        and (option.expose_value or option.is_eager is False)
        and not isinstance(option, EachTime)
    }


def _siblings(context: click.Context) -> dict[str, click.Option]:
    """The options of the program's other commands that take a file."""
    takers = [each for each in _below(context.find_root().command) if any(one.name == OPTION for one in each.params)]
    return {name: option for each in takers for name, option in _options(each).items()}


def _below(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _below(each)


def values_of(
    path: Path, options: dict[str, click.Option], others: dict[str, click.Option] | None = None
) -> dict[str, Any]:
    """What the file says, by parameter name. Raises ValueError, in one line."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        document = tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, nested too deeply
        raise ValueError(f"{path} is no configuration in TOML: {' '.join(str(error).split())}") from None
    known = {**(others or {}), **options}
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            raise ValueError(f"{path}: {key!r} is no option; known are {', '.join(sorted(known))}")
        taken = _checked(path, key, value, known[key])
        if key in options:
            values[known[key].name or key] = taken
    return values


def _checked(path: Path, key: str, value: Any, option: click.Option) -> Any:
    """`value` as click takes it, where it is of the option's type."""
    if option.multiple:
        if not isinstance(value, list):
            value = [value]
        return tuple(_checked_one(path, key, each, option) for each in value)
    return _checked_one(path, key, value, option)


def _checked_one(path: Path, key: str, value: Any, option: click.Option) -> Any:
    kinds, words = _kinds(option)
    if type(value) not in kinds:
        raise ValueError(f"{path}: {key} needs {words}, got {value!r}")
    if isinstance(value, str) and isinstance(option.type, click.Path):
        return str(path.parent / value)
    if isinstance(value, str) and isinstance(option.type, Located):
        return option.type.located(value, path.parent)
    return value


def _kinds(option: click.Option) -> tuple[tuple[type, ...], str]:
    """What TOML may have for it, and how that is called."""
    if option.is_flag:
        return (bool,), "true or false"
    if isinstance(option.type, (click.IntRange, click.types.IntParamType)):
        return (int,), "a whole number"
    if isinstance(option.type, (click.FloatRange, click.types.FloatParamType)):
        return (int, float), "a number"
    return (str,), "a text, in quotes"
