"""What has a device heard that the fleet does not know of yet? How long its questions took, by its own clock.

An asker tells it with its next question. Knows nothing of how that travels.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Final

from hub import wire

MOST_UNTOLD: Final = 1024  # the oldest are forgotten


class Heard:
    """Outcomes to be told, each with one question; with another one where that has no outcome from the fleet."""

    def __init__(self) -> None:
        self._untold: collections.deque[wire.Earlier] = collections.deque(maxlen=MOST_UNTOLD)

    def ended(self, outcome: wire.Earlier) -> None:
        """A question has its outcome."""
        self._untold.append(outcome)

    def take(self) -> tuple[wire.Earlier, ...]:
        """What the next question tells."""
        return tuple(self._untold.popleft() for _ in range(min(len(self._untold), wire.MAX_EARLIER)))

    def give_back(self, told: Iterable[wire.Earlier]) -> None:
        """The question that told this was not heard, as far as is known."""
        self._untold.extend(told)
