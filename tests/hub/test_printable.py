"""What somebody else wrote stays in its line."""

from __future__ import annotations

import io
import sys

import pytest

from hub.printable import print_what_can_be, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 世, 50%", "plain, é, 世, 50%"),
        ("a\nb\r", "a\\nb\\r"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202e\x00", "\\u202e\\x00"),
        ("", ""),
    ],
)
def test_only_what_can_be_printed_is_left(text: str, shown: str) -> None:
    """Letters of all scripts are, and neither lines nor orders to a terminal."""
    assert printable(text) == shown


def test_what_standard_output_cannot_show_is_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of another encoding gets what it has characters for, and no traceback."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    print_what_can_be()
    print("Zürich → 世", flush=True)
    assert written.getvalue().decode("latin-1") == "Zürich ? ?\n"
