"""Which key do the options of `edge-export` name, and where does its passphrase come from?

A passphrase comes from a file, the environment or a terminal, never from the command line, which every user of a
machine can read. Does not know how a signature is made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from exporter.errors import SigningError

PASSPHRASE_VARIABLE: Final = "EDGE_SIGN_PASSPHRASE"  # noqa: S105  # a name
_OPTIONS: Final = ("--sign", "--sign-passphrase-file", "--sign-command", "--sign-public-key")
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


def signing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say who signs."""
    for option in reversed(
        (
            click.option("--sign", "sign_key", type=_FILE, metavar="KEY",
                         help="Sign the bundle by this ECDSA P-256 private key (PEM)."),
            click.option("--sign-passphrase-file", "passphrase_file", type=_FILE, metavar="FILE",
                         help=f"Passphrase of KEY; else {PASSPHRASE_VARIABLE} in the environment, else asked."),
            click.option("--sign-command", metavar="CMD",
                         help="Sign by a command: the bytes on its stdin, the signature (DER) on its stdout."),
            click.option("--sign-public-key", "public_key", type=_FILE, metavar="FILE",
                         help="Public key (PEM) of --sign-command."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def signing_of(
    sign_key: Path | None, passphrase_file: Path | None, sign_command: str | None, public_key: Path | None
) -> Any:
    """What makes the signature (`exporter.signing.Signing`), or None where nobody is to sign.

    Raises click.UsageError for options that do not go together, SigningError for a key that cannot be had.
    """
    if sign_key is not None and sign_command is not None:
        raise click.UsageError("--sign and --sign-command: one of them signs, not both")
    if (sign_command is None) != (public_key is None):
        raise click.UsageError("--sign-command and --sign-public-key go together")
    if passphrase_file is not None and sign_key is None:
        raise click.UsageError("--sign-passphrase-file does nothing without --sign")
    if sign_key is None and sign_command is None:
        return None
    from exporter.signing import CommandKey, Signing, is_encrypted, private_key

    if sign_command is not None and public_key is not None:
        return Signing(CommandKey(sign_command, public_key))
    assert sign_key is not None
    passphrase = _passphrase(sign_key, passphrase_file) if is_encrypted(sign_key) else None
    return Signing(private_key(sign_key, passphrase))


def _passphrase(key: Path, file: Path | None) -> str | None:
    if file is not None:
        try:
            return file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SigningError(f"{file} cannot be read: {error}") from None
    if (given := os.environ.get(PASSPHRASE_VARIABLE)) is not None:
        return given
    if not sys.stdin.isatty():
        return None  # the key says what to do
    asked: str = click.prompt(f"Passphrase of {key}", hide_input=True, err=True)
    return asked


def without_signing(arguments: Sequence[str]) -> list[str]:
    """A command line as it may stand in a report: who signed it, and by what command, is not the bundle's business.

    >>> without_signing(["--model", "m", "--sign", "k.pem", "--sign-command=kms --token x", "--json"])
    ['--model', 'm', '--json']
    """
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument.partition("=")[0] in _OPTIONS:
            skip = "=" not in argument
        else:
            kept.append(argument)
    return kept
