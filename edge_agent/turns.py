"""Which device was served last, and when? A node answers devices in turns, and keeps a place free for those to come.

Pure; `now` is monotonic seconds. Knows nothing of questions or bundles.
"""

from __future__ import annotations

import collections
import math


class Turns:
    """Of the `limit` devices that were served last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._served = 0
        # Of each device the number of its question that was begun last, and when; the latest at the end.
        self._last: collections.OrderedDict[str, tuple[int, float]] = collections.OrderedDict()

    def begun(self, device: str, now: float) -> None:
        """A question of this device is answered from now on."""
        self._served += 1
        self._last[device] = self._served, now
        self._last.move_to_end(device)
        while len(self._last) > self._limit:
            self._last.popitem(last=False)

    def last(self, device: str) -> int:
        """The number of its latest question among all; 0 where it is not known.

        >>> turns = Turns(10)
        >>> turns.begun("kitchen", 0.0); turns.begun("hall", 1.0)
        >>> turns.last("kitchen"), turns.last("hall"), turns.last("attic")
        (1, 2, 0)
        """
        return self._last.get(device, (0, 0.0))[0]

    def since_others_s(self, device: str, now: float) -> float:
        """How long ago another device was served last; infinity where none is known.

        >>> turns = Turns(10)
        >>> turns.begun("kitchen", 1.0)
        >>> turns.since_others_s("hall", 3.0), turns.since_others_s("kitchen", 3.0)
        (2.0, inf)
        """
        return now - next((at for other, (_, at) in reversed(self._last.items()) if other != device), -math.inf)
