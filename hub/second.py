"""When is an attempt so late that a second node should try as well? The times, and how many of them there may be.

A question gets one second attempt at most, for one of two reasons:

- *hedge*: it has a deadline of its own and no outcome at its predicted 95th percentile. Within 2% of all questions.
- *silence*: it has no outcome a second after its predicted 99.9th percentile, and its node has ended nothing else.

The first attempt goes on: it may be all but done, and whichever ends first is the outcome. A question that belongs to
a session gets no second attempt, because the other node does not know what was said before. A streamed one is not
hedged: by then its first piece may be on the asker's screen, which would start over (the hub sees no pieces); and it
is silent only when the longest answer that it may have would be there.

Before its node has shown by its answers how late it may be, an attempt is never late.

Knows nothing of nodes or of what else is in flight.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from hub.decision import Terms
from hub.fleet import Load
from hub.intake import Ask

HEDGE_CHANCE: Final = 0.95  # of an answer by then
SILENT_CHANCE: Final = 0.999
SILENT_FLOOR_S: Final = 1.0  # predictions of milliseconds say nothing of what a machine does now and then
WORTH_CHANCE: Final = 0.5  # of the second node to be in time: less would cost the others more than it brings
HEDGE_SHARE: Final = 0.02
HEDGE_BURST: Final = 10.0
RETRY_SHARE: Final = 0.05  # when everything is slower than predicted, doubling the load would be no help
RETRY_BURST: Final = 20.0


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """When an attempt is to be looked at; infinite where it never is. `looked_s`: what the node ended since counts."""

    hedge_at_s: float
    silent_at_s: float
    looked_s: float

    @property
    def next_s(self) -> float:
        """The earlier one."""
        return min(self.hedge_at_s, self.silent_at_s)


def doubt_of(ask: Ask, terms: Terms, load: Load, now: float) -> Doubt | None:
    """When the attempt that leaves now with these `terms` will be late; None where that leads to nothing."""
    question = ask.question
    if question.session is not None or not terms.is_proven:
        return None
    hedge_at_s = math.inf
    if ask.hurried and not question.stream:
        hedge_at_s = now + terms.within_ms(HEDGE_CHANCE) / 1000
    slowest = terms
    if question.stream:
        slowest = msgspec.structs.replace(terms, fixed_ms=load.longest_ms, prefill_ms=0.0, decode_ms=0.0)
    silent_at_s = now + slowest.within_ms(SILENT_CHANCE) / 1000 + SILENT_FLOOR_S
    doubt = Doubt(hedge_at_s=hedge_at_s, silent_at_s=silent_at_s, looked_s=now)
    return doubt if doubt.next_s < load.deadline_s else None


def looked_again(doubt: Doubt, period_s: float, now: float) -> Doubt:
    """Nothing was done about it: the next look is for silence, `period_s` from now."""
    return Doubt(hedge_at_s=math.inf, silent_at_s=now + max(period_s, SILENT_FLOOR_S), looked_s=now)


class Allowance:
    """How many second attempts there may be: `share` of the questions, `burst` of them at once.

    >>> hedges = Allowance(0.02, burst=10, saved=0)
    >>> for _ in range(99): hedges.earn()
    >>> hedges.take(), hedges.take()
    (True, False)
    """

    def __init__(self, share: float, burst: float, saved: float) -> None:
        self._share = share
        self._burst = burst
        self._saved = saved

    def earn(self) -> None:
        """A question was sent to its first node."""
        self._saved = min(self._saved + self._share, self._burst)

    @property
    def is_spent(self) -> bool:
        """Whether there can be none now."""
        return self._saved < 1.0 - 1e-9  # fifty times 0.02 is one

    def take(self) -> bool:
        """Whether there may be one more; it is counted."""
        if self.is_spent:
            return False
        self._saved -= 1.0
        return True
