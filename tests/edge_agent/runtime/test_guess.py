"""Guesses come from what was said, and their luck is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.runtime.guess import MATCHED, MOST_TOKENS, Guesser


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 40))
def test_a_guess_is_what_followed_the_same_tokens_before(ids: list[int], prompt: int) -> None:
    """The latest earlier place with the longest match says what comes; without one there is no guess."""
    guesser = Guesser(ids[:prompt])
    for token in ids[prompt:]:
        guesser.said(token)
    expected: list[int] = []
    for matched in MATCHED:
        places = [end for end in range(matched, len(ids)) if ids[end - matched : end] == ids[len(ids) - matched :]]
        if places and not expected:
            expected = ids[places[-1] : places[-1] + MOST_TOKENS]
    assert guesser.guess() == expected


def test_luck_follows_what_comes_true() -> None:
    """A repeating answer is believed soon, one that stops to repeat is not for long."""
    guesser = Guesser([1, 2, 3, 4] * 3)
    assert guesser.luck == 0.5
    for token in [1, 2, 3, 4] * 5:
        guesser.said(token)
    assert guesser.luck > 0.9
    for token in [9, 2, 3, 8] * 12:
        guesser.said(token)
    worse = Guesser([5, 6, 7, 5, 6])
    for token in (8, 5, 6, 9, 5, 6, 10, 5, 6, 11, 5, 6, 12):
        worse.said(token)
    assert worse.luck < 0.3


def test_luck_does_not_change_where_nothing_was_guessed() -> None:
    """New text says nothing about guesses."""
    guesser = Guesser(list(range(10)))
    guesser.said(50)
    assert guesser.luck == 0.5
