"""Paired bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.interval import interval_of_counts, interval_of_differences


@given(lost=st.integers(0, 300), won=st.integers(0, 300), more=st.integers(1, 5000))
def test_the_mean_lies_inside(lost: int, won: int, more: int) -> None:
    """Whatever was lost and won, the interval holds the measured drop."""
    drop = interval_of_counts(lost, won, lost + won + more)
    assert drop.low <= drop.mean <= drop.high


def test_counts_and_their_differences_give_one_interval() -> None:
    """Counting lost and won is only a quicker way to resample their differences."""
    differences = np.repeat([1.0, -1.0, 0.0], [60, 20, 1920])
    counted, drawn = interval_of_counts(60, 20, 2000), interval_of_differences(differences)
    assert counted.mean == pytest.approx(drawn.mean)
    assert counted.low == pytest.approx(drawn.low, abs=1e-3)
    assert counted.high == pytest.approx(drawn.high, abs=1e-3)


def test_it_is_that_of_the_normal_distribution_where_that_holds() -> None:
    """With many items it is Wald's interval of a paired proportion (Agresti, Categorical Data Analysis, 11.1)."""
    lost, won, count = 400, 200, 10_000
    drop = interval_of_counts(lost, won, count)
    half = 1.96 * math.sqrt(((lost + won) / count - drop.mean**2) / count)
    assert drop.high - drop.mean == pytest.approx(half, rel=0.05)
    assert drop.mean - drop.low == pytest.approx(half, rel=0.05)


def test_it_is_the_same_each_time_and_narrows_with_more_items() -> None:
    """Seeded; ten times the same items give a narrower interval."""
    once, again, more = (interval_of_counts(40 * k, 20 * k, 1000 * k) for k in (1, 1, 10))
    assert once == again
    assert more.high - more.low < 0.5 * (once.high - once.low)
