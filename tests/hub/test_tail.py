"""What is left of an answer that is long already."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.tail import Tail


@given(st.lists(st.floats(0, 1e6), max_size=60), st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_what_is_left_is_never_negative(learned: list[float], asked: list[float]) -> None:
    """Whatever was learned, and however long an answer is."""
    tail = Tail()
    for ratio in learned:
        tail.learn(ratio)
    left = tail.left(np.array(asked))
    assert np.isfinite(left).all()
    assert (left >= 0).all()


def test_before_anything_is_learned_an_answer_is_as_long_as_expected() -> None:
    """And the longer it is, the more is left of it: lengths have heavy tails."""
    left = Tail().left(np.array([0.0, 1.0, 3.0]))
    assert left[0] == pytest.approx(1.0, abs=0.05)
    assert left[2] > left[1] > 0.3


def test_two_kinds_of_answers_are_told_apart_by_their_age() -> None:
    """Short ones are over soon; what goes on is one of the long ones."""
    tail = Tail()
    for ratio in (0.5, 2.5) * 4000:
        tail.learn(ratio)
    young, old = tail.left(np.array([0.1, 0.7]))
    assert young == pytest.approx(1.4, abs=0.1)
    assert old == pytest.approx(1.8, abs=0.1)
