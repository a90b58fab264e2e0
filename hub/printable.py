"""How does a text that somebody else wrote look in one line of a log or a terminal? Knows nothing of who wrote it."""

from __future__ import annotations

import io
import sys


def printable(text: str) -> str:
    """`text`, with what would begin a line or move a terminal's cursor written as in a program.

    >>> print(printable("out of memory\\n\\x1b[2J"))
    out of memory\\n\\x1b[2J
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def print_what_can_be() -> None:
    """From now on print `?` for what standard output has no character for, where it is no UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
