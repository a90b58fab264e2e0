"""The bars of the distribution."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hub.report.distribution import histogram


@given(st.lists(st.floats(0.0, 1e11), min_size=1, max_size=60))
def test_every_delay_is_in_one_bar(delays: list[float]) -> None:
    """Bars follow on each other, hold just what they say, and neither the first nor the last one is empty."""
    bars = histogram(np.array(delays))
    assert all(one.to_ms == following.from_ms for one, following in itertools.pairwise(bars))
    for bar in bars:
        assert bar.count == sum(bar.from_ms <= delay < bar.to_ms for delay in delays)
    assert sum(bar.count for bar in bars) == len(delays)
    assert bars[0].count
    assert bars[-1].count
    assert len(bars) <= 24


def test_bars_are_as_fine_as_there_is_room_for() -> None:
    """Delays of one decade have twelve bars, those of nine have one for each."""
    assert len(histogram(np.array([10.0, 99.0]))) == 12
    assert len(histogram(np.array([10.0, 9e9]))) == 9


def test_nothing_was_answered() -> None:
    """No delay, no bar."""
    assert histogram(np.zeros(0)) == ()


def test_a_delay_below_zero_by_two_clocks_is_in_the_first_bar() -> None:
    """It is counted where zero is."""
    (bar,) = histogram(np.array([-1.0, 0.0]))
    assert (bar.from_ms, bar.count) == (0.0, 2)
