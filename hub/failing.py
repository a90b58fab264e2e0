"""How likely is a node to fail the next question? Failures raise the estimate, answers lower it, time forgets it.

Time forgets, because a node that nobody asks any more can show in no other way that it is well again. Knows nothing
of nodes or clocks; `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

FORGET_S: Final = 30.0  # time constant: a failing node is asked again about two minutes after its last failure
_STEP: Final = 0.25  # of the way to 1 with each failure, to 0 with each answer


class Failing(msgspec.Struct, frozen=True):
    """The share of questions that were failed lately, as it was at `at_s`."""

    rate: float = 0.0
    at_s: float = 0.0


def rate_at(failing: Failing, now: float) -> float:
    """The share that is to be expected at `now`, 0 to 1.

    >>> one = after_failure(Failing(), 10.0)
    >>> [round(rate_at(one, now), 3) for now in (10.0, 40.0, 130.0)]
    [0.25, 0.092, 0.005]
    """
    return failing.rate * math.exp(-max(now - failing.at_s, 0.0) / FORGET_S)


def after_failure(failing: Failing, now: float) -> Failing:
    """The estimate after one more failure; never a lower one."""
    rate = rate_at(failing, now)
    return Failing(rate + (1.0 - rate) * _STEP, now)


def after_answer(failing: Failing, now: float) -> Failing:
    """The estimate after an answer."""
    if failing.rate == 0.0:
        return failing
    return Failing(rate_at(failing, now) * (1.0 - _STEP), now)
