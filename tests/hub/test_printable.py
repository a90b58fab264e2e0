"""What somebody else wrote stays in its line."""

from __future__ import annotations

import pytest

from hub.printable import printable


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
