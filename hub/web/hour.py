"""How did the last hour go? Counts, delays and their stages in slots of ten seconds, all in bounded memory.

Delays of answers are kept in buckets whose widths grow, so a percentile is off by 2.5% at most. Pure: whoever adds
says when, in seconds since the epoch, because a node may tell later what it has answered alone. It knows nothing of
who asked or which node answered.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import msgspec

from hub.events import STAGES, Record

SLOT_S: Final = 10
SLOTS: Final = 360

_GAMMA: Final = 1.05  # width of a bucket: its middle is at most (gamma - 1) / (gamma + 1) off
_LOG_GAMMA: Final = math.log(_GAMMA)
_LEAST_MS: Final = 0.01
_MOST_MS: Final = 1e9  # no question lives for longer than a day


def bucket_of(ms: float) -> int:
    """The bucket of a delay.

    >>> [round(middle_of(bucket_of(ms)) / ms, 2) for ms in (0.5, 7, 160, 30_000)]
    [0.99, 0.98, 1.02, 1.01]
    """
    return math.ceil(math.log(min(max(ms, _LEAST_MS), _MOST_MS)) / _LOG_GAMMA)


def middle_of(bucket: int) -> float:
    """The delay that stands for a bucket, milliseconds."""
    return float(2 * _GAMMA**bucket / (_GAMMA + 1))


def percentile(buckets: Counter[int], share: float) -> float | None:
    """The delay within which this share of the answers came; None where there is none.

    >>> buckets = Counter(bucket_of(ms) for ms in range(1, 101))
    >>> [round(percentile(buckets, share)) for share in (0.5, 0.95, 1.0)]
    [51, 96, 101]
    """
    left = share * buckets.total()
    found = None
    for bucket in sorted(buckets):
        if buckets[bucket] <= 0:
            continue
        found = bucket
        left -= buckets[bucket]
        if left <= 0:
            break
    return None if found is None else middle_of(found)


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """Ten seconds. `stages_ms` are means over its answers, in the order of STAGES; they add up to the mean delay."""

    start_s: int
    answered: int
    failed: int
    stages_ms: tuple[float, ...]
    p50_ms: float | None
    p95_ms: float | None


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """The hour in figures."""

    answered: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None


class _Sums:
    """A slot that may still change, and what it comes to, once somebody wants to know."""

    def __init__(self) -> None:
        self.number = 0  # of its last change
        self.answered = 0
        self.failed = 0
        self.stages_ms = [0.0] * len(STAGES)
        self.buckets: Counter[int] = Counter()
        self.slot: Slot | None = None

    def summed(self, start_s: int) -> Slot:
        if self.slot is None:
            self.slot = Slot(
                start_s=start_s,
                answered=self.answered,
                failed=self.failed,
                stages_ms=tuple(ms / max(self.answered, 1) for ms in self.stages_ms),
                p50_ms=percentile(self.buckets, 0.5),
                p95_ms=percentile(self.buckets, 0.95),
            )
        return self.slot


class Hour:
    """The last hour before the last `add` or `expire`."""

    def __init__(self) -> None:
        self._slots: dict[int, _Sums] = {}  # by their start in slots since the epoch
        self._answered = 0
        self._failed = 0
        self._buckets: Counter[int] = Counter()
        self._oldest = 0

    def add(self, record: Record, at_s: float, *, now_s: float, number: int) -> None:
        """A question ended at `at_s`; `number` goes up with each change. What is no part of the hour is left out."""
        self.expire(now_s)
        place = int(at_s // SLOT_S)
        if not self._oldest <= place < self._oldest + SLOTS:
            return
        sums = self._slots.get(place)
        if sums is None:
            before = self._slots.get(place - 1)
            if before is not None:
                before.summed((place - 1) * SLOT_S)  # now, and not for an hour of slots when somebody looks
            sums = self._slots[place] = _Sums()
        sums.number, sums.slot = number, None
        if record.outcome != "answered":
            sums.failed += 1
            self._failed += 1
            return
        sums.answered += 1
        self._answered += 1
        bucket = bucket_of(record.total_ms)
        sums.buckets[bucket] += 1
        self._buckets[bucket] += 1
        stages = sums.stages_ms
        stages[0] += record.network_ms
        stages[1] += record.queue_ms
        stages[2] += record.prefill_ms
        stages[3] += record.decode_ms
        stages[4] += record.overhead_ms

    def expire(self, now_s: float) -> None:
        """Forget what is no part of the hour before `now_s`; where the clock was set back, what lies ahead of it."""
        oldest = int(now_s // SLOT_S) - SLOTS + 1
        if oldest == self._oldest:
            return
        self._oldest = oldest
        for place in [place for place in self._slots if not oldest <= place < oldest + SLOTS]:
            sums = self._slots.pop(place)
            self._answered -= sums.answered
            self._failed -= sums.failed
            self._buckets -= sums.buckets  # leaves no empty buckets

    def changed_since(self, number: int) -> tuple[Slot, ...]:
        """The slots that changed after that number, oldest first."""
        changed = sorted(place for place, sums in self._slots.items() if sums.number > number)
        return tuple(self._slots[place].summed(place * SLOT_S) for place in changed)

    def whole(self) -> Whole:
        """All of it."""
        return Whole(
            answered=self._answered,
            failed=self._failed,
            p50_ms=percentile(self._buckets, 0.5),
            p95_ms=percentile(self._buckets, 0.95),
        )

    def per_s(self, over_s: int, now_s: float) -> float:
        """Questions a second, as of the last whole slots that make up `over_s`."""
        last = int(now_s // SLOT_S)
        slots = [self._slots.get(place) for place in range(last - over_s // SLOT_S, last)]
        return sum(sums.answered + sums.failed for sums in slots if sums is not None) / over_s
