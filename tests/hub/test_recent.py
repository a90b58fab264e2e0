"""Bounded memories."""

from __future__ import annotations

import pytest

from hub.recent import Recent


def test_forgets_what_was_not_touched_for_longest() -> None:
    """Reading and writing both keep an entry."""
    seen = Recent[str, int](3)
    for number, name in enumerate("abc"):
        seen.put(name, number + 1)
    assert seen.get("a") == 1
    seen.put("b", 5)
    seen.put("d", 4)
    assert list(seen) == ["a", "b", "d"]
    assert (seen.get("c"), seen.pop("b"), seen.pop("b"), len(seen)) == (None, 5, None, 2)


def test_newest_first() -> None:
    """From the one that was put or got last."""
    seen = Recent[str, int](2)
    for number, name in enumerate("abc"):
        seen.put(name, number + 1)
    assert list(seen.newest_first()) == [3, 2]
    seen.get("b")
    assert list(seen.newest_first()) == [2, 3]


def test_needs_room_for_one() -> None:
    """A memory without room is a mistake."""
    with pytest.raises(ValueError, match="at least 1"):
        Recent[str, int](0)
