"""Whose turn it is follows from who was served last; what is remembered is bounded."""

from __future__ import annotations

import math

from edge_agent.turns import Turns


def test_who_was_served_last_comes_last() -> None:
    """Each question puts its device behind all others."""
    turns = Turns(10)
    for now, device in enumerate(("a", "b", "c", "a")):
        turns.begun(device, float(now))
    assert sorted("abcd", key=turns.last) == ["d", "b", "c", "a"]


def test_when_others_were_served() -> None:
    """The latest of them counts, and never the device itself."""
    turns = Turns(10)
    assert turns.since_others_s("a", 5.0) == math.inf
    turns.begun("a", 1.0)
    assert turns.since_others_s("a", 5.0) == math.inf
    turns.begun("b", 2.0)
    turns.begun("a", 4.0)
    assert (turns.since_others_s("a", 5.0), turns.since_others_s("b", 5.0)) == (3.0, 1.0)


def test_strangers_take_no_room() -> None:
    """Who was served longest ago is forgotten first."""
    turns = Turns(2)
    for now, device in enumerate("abc"):
        turns.begun(device, float(now))
    assert (turns.last("a"), turns.last("b"), turns.last("c")) == (0, 2, 3)
