"""Which things are due when: named alarms on a heap.

Knows nothing of clocks; `now` and every time is the caller's monotonic seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

Name = tuple[str, ...]


class Timers:
    """At most one alarm per name; setting it again moves it.

    >>> timers = Timers()
    >>> timers.set(("ping", "n"), 2.0); timers.set(("ping", "n"), 1.0); timers.set(("settled",), 3.0)
    >>> timers.next_s()
    1.0
    >>> list(timers.due(3.0)), timers.next_s()
    ([('ping', 'n'), ('settled',)], None)
    """

    def __init__(self) -> None:
        self._at: dict[Name, float] = {}
        self._heap: list[tuple[float, Name]] = []

    def __len__(self) -> int:
        return len(self._at)

    def set(self, name: Name, at_s: float) -> None:
        """Let `name` be due at `at_s`, and not before."""
        self._at[name] = at_s
        heapq.heappush(self._heap, (at_s, name))
        if len(self._heap) > 2 * len(self._at) + 64:  # moved and cancelled alarms leave their old entries behind
            self._heap = [(at, held) for held, at in self._at.items()]
            heapq.heapify(self._heap)

    def cancel(self, name: Name) -> None:
        """Let `name` never be due; nothing happens where it was not set."""
        self._at.pop(name, None)

    def next_s(self) -> float | None:
        """When the next alarm is due."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Name]:
        """Take the alarms due at `now`, earliest first; alarms set meanwhile for no later than `now` included."""
        while (at := self.next_s()) is not None and at <= now:
            _, name = heapq.heappop(self._heap)
            del self._at[name]
            yield name
