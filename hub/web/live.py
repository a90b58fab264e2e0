"""What has happened at this hub lately? Hears every decision and outcome, and keeps what a page shows of them.

Bounded: the last questions with why they went where, and an hour in slots (`hour.py`). It is told in the loop's thread
and read in another, so it holds a lock, for microseconds. It knows nothing of nodes as they are now, or of HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from hub.decision import Decision
from hub.events import Record
from hub.fleet import Key
from hub.recent import Recent
from hub.web.hour import Hour, Slot, Whole

QUESTIONS: Final = 200  # that are shown
MOST_KEPT: Final = 1000  # more than change between two looks, a second: so the end of no shown one is missed
_MOST_DECISIONS: Final = 8  # of one question: a hub makes no more attempts
_RATE_S: Final = 30


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A question: its choices so far and, once it has ended, its record. `number` is that of its last change."""

    number: int
    at_s: float  # since the epoch, of the last change
    device: str
    id: str
    decisions: tuple[Decision, ...] = ()
    record: Record | None = None


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What changed after some number, up to `number`."""

    number: int
    questions: tuple[Seen, ...]  # oldest change first
    slots: tuple[Slot, ...]
    hour: Whole
    per_s: float


class Live:
    """A listener of the hub's service. `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._number = 0
        self._seen: Recent[Key, Seen] = Recent(MOST_KEPT)
        self._hour = Hour()
        self._followed: dict[Key, Callable[[Decision], None]] = {}

    # --- in the loop's thread ---------------------------------------------------------------------------

    def decided(self, decision: Decision) -> None:
        """A node was chosen, or none was there."""
        key = (decision.device, decision.id)
        with self._lock:
            self._number += 1
            seen = self._seen.get(key)
            before = () if seen is None or seen.record is not None else seen.decisions
            self._seen.put(
                key,
                Seen(
                    number=self._number,
                    at_s=self._clock(),
                    device=decision.device,
                    id=decision.id,
                    decisions=(*before[1 - _MOST_DECISIONS :], decision),
                ),
            )
            tell = self._followed.get(key)
        if tell is not None:
            tell(decision)

    def ended(self, record: Record, wall_time_s: float) -> None:
        """A question has its outcome. One that a node answered alone counts, but is no question of this hub's.

        Of one that was pieced together from a node's report nobody knows how long it took: it is left out.
        """
        if record.partial:
            return
        with self._lock:
            self._number += 1
            self._hour.add(record, wall_time_s, now_s=self._clock(), number=self._number)
            if record.local:
                return
            self._seen.put(
                (record.device, record.id),
                Seen(
                    number=self._number,
                    at_s=wall_time_s,
                    device=record.device,
                    id=record.id,
                    decisions=record.decisions[-_MOST_DECISIONS:],
                    record=record,
                ),
            )

    # --- in any thread ----------------------------------------------------------------------------------

    def since(self, number: int) -> News:
        """What changed after `number`; after 0 all that is kept."""
        with self._lock:
            now_s = self._clock()
            self._hour.expire(now_s)
            return News(
                number=self._number,
                questions=self._seen_since(number),
                slots=self._hour.changed_since(number),
                hour=self._hour.whole(),
                per_s=self._hour.per_s(_RATE_S, now_s),
            )

    def follow(self, key: Key, tell: Callable[[Decision], None]) -> None:
        """Let `tell` hear each decision on this question until `unfollow`; in the loop's thread, so it is short."""
        with self._lock:
            self._followed[key] = tell

    def unfollow(self, key: Key) -> None:
        """Tell no more."""
        with self._lock:
            self._followed.pop(key, None)

    def _seen_since(self, number: int) -> tuple[Seen, ...]:
        """From the newest backwards, so that the price is that of what has changed."""
        found: list[Seen] = []
        for seen in self._seen.newest_first():
            if seen.number <= number:
                break
            found.append(seen)
        return tuple(reversed(found))
