"""An hour in slots: what is in it, what it comes to, and that it stays small."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.events import STAGES
from hub.web.hour import SLOT_S, SLOTS, Hour, bucket_of, middle_of, percentile
from tests.hub.rows import record

NOW_S = 1_000_000.0


def filled(*ended: tuple[float, dict[str, object]]) -> Hour:
    """An hour with these records, each at its time."""
    hour = Hour()
    for number, (at_s, changes) in enumerate(ended, 1):
        hour.add(record(**changes), at_s, now_s=NOW_S, number=number)
    return hour


@given(st.floats(0.01, 1e9))
def test_a_bucket_is_off_by_little(ms: float) -> None:
    """Whatever the delay, its bucket's middle is within 2.5% of it."""
    assert middle_of(bucket_of(ms)) == pytest.approx(ms, rel=0.025)


def test_percentiles_are_those_of_the_delays() -> None:
    """Within the error that is stated, and none where there is nothing."""
    draw = random.Random(1)
    delays = sorted(draw.lognormvariate(4, 1) for _ in range(2000))
    buckets = Counter(map(bucket_of, delays))
    for share in (0.05, 0.5, 0.95, 0.99):
        assert percentile(buckets, share) == pytest.approx(delays[int(share * 2000) - 1], rel=0.026)
    assert percentile(Counter(), 0.5) is None


def test_stages_add_up_to_the_mean_delay() -> None:
    """Of the answers alone: a failure counts, and has no stages."""
    hour = filled(
        (NOW_S, {}), (NOW_S, {"total_ms": 50.0, "decode_ms": 0.0, "network_ms": 0.0}), (NOW_S, {"outcome": "deadline"})
    )
    (slot,) = hour.changed_since(0)
    assert (slot.start_s, slot.answered, slot.failed) == (NOW_S // SLOT_S * SLOT_S, 2, 1)
    assert sum(slot.stages_ms) == pytest.approx(75.0)
    assert dict(zip(STAGES, slot.stages_ms, strict=True))["network"] == 5.0


def test_only_what_changed_is_told() -> None:
    """By the number of the change; a slot that changes again is another value."""
    hour = filled((NOW_S - 60, {}), (NOW_S, {}))
    before = hour.changed_since(0)
    assert [slot.start_s for slot in before] == [NOW_S - 60, NOW_S]
    assert hour.changed_since(2) == ()
    hour.add(record(), NOW_S - 60, now_s=NOW_S, number=3)
    (again,) = hour.changed_since(2)
    assert (again.start_s, again.answered, before[0].answered) == (NOW_S - 60, 2, 1)


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    """Also in the sums; what a node tells too late is no part of it."""
    hour = filled((NOW_S - 3500, {"total_ms": 1000.0}), (NOW_S - 4000, {}), (NOW_S, {}))
    assert (hour.whole().answered, len(hour.changed_since(0))) == (2, 2)
    hour.expire(NOW_S + 200)
    assert hour.whole().answered == 1
    assert hour.whole().p95_ms == pytest.approx(100.0, rel=0.03)


def test_a_clock_that_leaps_does_no_harm() -> None:
    """Ahead and back: what lies ahead is dropped, and what comes next counts."""
    hour = filled((NOW_S, {}))
    hour.add(record(), NOW_S + 1e8, now_s=NOW_S + 1e8, number=2)
    hour.add(record(), NOW_S + 20, now_s=NOW_S + 20, number=3)
    assert [slot.start_s for slot in hour.changed_since(0)] == [NOW_S + 20]
    assert hour.whole().answered == 1


def test_it_holds_no_more_than_its_slots() -> None:
    """However many questions end, in whatever order."""
    hour, draw = Hour(), random.Random(2)
    for number in range(5000):
        now_s = NOW_S + number * 5
        hour.add(record(), now_s - draw.uniform(-100, 5000), now_s=now_s, number=number)
    assert len(hour.changed_since(-1)) <= SLOTS


def test_rate_of_whole_slots() -> None:
    """The slot that is not over yet does not count: it would look like a fall."""
    hour = filled(*((NOW_S - 5, {}) for _ in range(6)), *((NOW_S - 15, {"outcome": "deadline"}) for _ in range(9)))
    assert hour.per_s(30, NOW_S) == 0.5
    assert hour.per_s(30, NOW_S - 10) == 0.3
