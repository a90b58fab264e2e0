"""Bytes come no faster than they may, and tries no sooner."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.deploy.pace import LONGEST_PAUSE_S, TokenBucket, pause_s


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=50), st.floats(1_000, 1_000_000))
def test_no_more_than_the_rate_passes(sizes: list[int], rate: float) -> None:
    """Whoever waits as told gets at most a second's worth at once, and the rate after that."""
    bucket, now = TokenBucket(rate), 0.0
    for size in sizes:
        now += bucket.take(size, now)
    assert sum(sizes) <= rate * (now + 1.0) * (1 + 1e-9)
    assert now <= sum(sizes) / rate  # and no longer than needed


def test_without_a_rate_nothing_waits() -> None:
    """Whatever comes."""
    assert TokenBucket(None).take(10**12, 0.0) == 0.0


def test_time_that_goes_back_gives_nothing() -> None:
    """Monotonic clocks do not; a bucket that is asked out of order does not overflow."""
    bucket = TokenBucket(100.0)
    assert bucket.take(100, 5.0) == 0.0
    assert bucket.take(100, 1.0) == 1.0


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_pauses_grow_and_are_bounded(tries: int, draw: float) -> None:
    """At most twice the one before, never above the longest, and spread."""
    assert 0 <= pause_s(tries, draw) <= LONGEST_PAUSE_S
    assert pause_s(tries, 1.0) <= pause_s(tries + 1, 1.0) <= 2 * pause_s(tries, 1.0)
    assert pause_s(tries, 0.0) == 0.0
