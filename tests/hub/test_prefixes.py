"""What nodes still have of earlier questions."""

from __future__ import annotations

from hub import wire
from hub.prefixes import MOST_NODES, Kept, Prefixes


def test_the_latest_answer_counts() -> None:
    """A node that knew the prompt once and not the next time has lost it."""
    prefixes = Prefixes(10)
    for cached in (100, 0):
        prefixes.learn("kitchen", None, "a", 1, wire.Tokens(prompt=120, cached=cached, completion=5))
    assert prefixes.of_device("kitchen") == (Kept("a", 1, 0),)
    assert prefixes.of_device("library") == ()


def test_a_session_is_where_it_was_answered_last() -> None:
    """It moves with its answers, and is no device's prompt."""
    prefixes = Prefixes(10)
    prefixes.learn("kitchen", "talk", "a", 1, wire.Tokens(prompt=20, completion=5))
    prefixes.learn("kitchen", "talk", "b", 4, wire.Tokens(prompt=50, completion=5))
    assert prefixes.of_session("kitchen", "talk") == Kept("b", 4, 55)
    assert prefixes.of_session("library", "talk") is None
    assert prefixes.of_device("kitchen") == ()


def test_memory_is_bounded() -> None:
    """By devices, sessions, and nodes for each."""
    prefixes = Prefixes(3)
    for number in range(50):
        prefixes.learn("kitchen", None, f"n{number}", 1, wire.Tokens(prompt=9, cached=4))
        prefixes.learn(f"d{number}", None, "a", 1, wire.Tokens(prompt=9, cached=4))
        prefixes.learn("kitchen", f"s{number}", "a", 1, wire.Tokens(prompt=9))
        assert len(prefixes.of_device("kitchen")) <= MOST_NODES
    assert prefixes.of_session("kitchen", "s0") is None
    assert prefixes.of_session("kitchen", "s49") is not None
