"""Which messages may be acknowledged now? Those whose predecessors have been, in order of receipt.

MQTT 5 demands that order (4.6), and rumqttd drops clients that do otherwise. Pure: what is told to the broker is its
owner's business.
"""

from __future__ import annotations

import collections
import itertools

_numbers = itertools.count(1)  # over all links, so that a receipt names its message whichever link brought it


def next_receipt() -> int:
    """A number that no other message of this process has."""
    return next(_numbers)


class Receipts:
    """The messages of one connection that the broker still holds, each by its (message id, QoS)."""

    def __init__(self) -> None:
        self._waiting: collections.OrderedDict[int, tuple[int, int]] = collections.OrderedDict()
        self._done: set[int] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def came(self, receipt: int, mid: int, qos: int) -> None:
        """A message came that is to be acknowledged by hand."""
        self._waiting[receipt] = (mid, qos)

    def acknowledged(self, receipt: int) -> list[tuple[int, int]]:
        """The owner is done with one; returns what may be told to the broker now. Unknown receipts are ignored."""
        now_due: list[tuple[int, int]] = []
        if receipt not in self._waiting:
            return now_due
        self._done.add(receipt)
        while self._waiting:
            first, (mid, qos) = next(iter(self._waiting.items()))
            if first not in self._done:
                break
            del self._waiting[first]
            self._done.discard(first)
            if qos:
                now_due.append((mid, qos))
        return now_due

    def clear(self) -> None:
        """The connection is gone, and its message ids with it: the broker sends again what it still holds."""
        self._waiting.clear()
        self._done.clear()
