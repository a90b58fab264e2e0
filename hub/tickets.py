"""What was published and has not been accepted by the broker yet, until when is it worth sending, and how far is it?

Pure: `now` is monotonic seconds, and what is sent or forgotten is its owner's business.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

_STEP: Final = 0.2  # of the way to each new sample


class Tickets:
    """The QoS 1 messages of one link, by paho's message id."""

    def __init__(self) -> None:
        self.round_trip_ms: float | None = None  # to the broker and back, a running mean; None before the first
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[int, float | None]] = {}  # ticket, and when it was written if to an open link
        self._until: dict[int, float] = {}

    def next_ticket(self) -> int:
        """A number for one more message, of whatever QoS."""
        return next(self._numbers)

    def published(self, mid: int, ticket: int, written_at: float | None, until: float) -> None:
        """`written_at` is None where it had to wait for a connection: that says nothing of the way."""
        self._waiting[mid] = ticket, written_at
        if until < math.inf:
            self._until[mid] = until

    def accepted(self, mid: int, now: float) -> int | None:
        """The broker has it; returns its ticket."""
        ticket, written_at = self._waiting.pop(mid, (None, None))
        self._until.pop(mid, None)
        if written_at is not None:
            sample_ms = (now - written_at) * 1000
            known_ms = sample_ms if self.round_trip_ms is None else self.round_trip_ms
            self.round_trip_ms = known_ms + _STEP * (sample_ms - known_ms)
        return ticket

    def lost(self) -> None:
        """The connection broke: what waits is sent again over the next, by which time it says nothing of the way."""
        self.round_trip_ms = None
        self._waiting = {mid: (ticket, None) for mid, (ticket, _) in self._waiting.items()}

    def drop_outdated(self, now: float) -> list[int]:
        """Forget what must not be sent any more; returns the message ids."""
        outdated = [mid for mid, until in self._until.items() if until <= now]
        for mid in outdated:
            del self._until[mid]
            self._waiting.pop(mid, None)
        return outdated
