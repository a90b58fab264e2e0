"""What the router decided, with every candidate's terms: values only."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

import msgspec

PROVEN_WEIGHT: Final = 8.0  # of `delay.Spread`: about six answers seen

_NORMAL: Final = NormalDist()


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of the predicted delay of one question on one node, milliseconds.

    `delay = network + upload + max(wait - network / 2 - upload, 0) + fixed + prefill + decode`
    (`prefill` and `decode` here are already multiplied by their tokens). What the node's delays were beside their
    predictions makes it a distribution: `ln(actual / delay)` is normal with mean `log_bias` and deviation `log_spread`.
    """

    node: str
    bundle: str
    network_ms: float
    wait_ms: float
    fixed_ms: float
    prefill_ms: float
    decode_ms: float
    prompt_tokens: float
    completion_tokens: float
    upload_ms: float = 0.0  # that a question of this size arrives later than a ping
    log_bias: float = 0.0
    log_spread: float = 0.0
    spread_weight: float = 0.0  # of the answers that bias and spread come from
    price_ms: float = 0.0  # no part of the delay: what others will wait for it, where the objective counts that
    risk_ms: float = 0.0  # no part of the delay: the budget, by the share of questions that the node fails

    @property
    def visible_wait_ms(self) -> float:
        """What is left of the wait when the question arrives: a queue drains while it travels."""
        return max(self.wait_ms - self.arrival_ms, 0.0)

    @property
    def arrival_ms(self) -> float:
        """When the question is there."""
        return self.network_ms / 2 + self.upload_ms

    @property
    def delay_ms(self) -> float:
        """The predicted milliseconds from the hub's receipt to the answer.

        >>> Terms(node="n", bundle="b", network_ms=60, wait_ms=50, fixed_ms=1, prefill_ms=2, decode_ms=3,
        ...       prompt_tokens=1, completion_tokens=1).delay_ms
        86.0
        """
        travel_ms = self.network_ms + self.upload_ms
        return travel_ms + self.visible_wait_ms + self.fixed_ms + self.prefill_ms + self.decode_ms

    @property
    def is_proven(self) -> bool:
        """Whether bias and spread come from the node's answers, more than from a guess."""
        return self.spread_weight >= PROVEN_WEIGHT

    def chance_within(self, budget_ms: float) -> float:
        """How likely the answer is there within `budget_ms`, 0 to 1.

        >>> terms = Terms(node="n", bundle="b", network_ms=0, wait_ms=0, fixed_ms=99, prefill_ms=0, decode_ms=0,
        ...               prompt_tokens=1, completion_tokens=1, log_spread=0.5)
        >>> [round(terms.chance_within(budget), 2) for budget in (0, 50, 99, 200, 1000)]
        [0.0, 0.09, 0.5, 0.92, 1.0]
        """
        off = math.log((max(budget_ms, 0.0) + 1.0) / (self.delay_ms + 1.0)) - self.log_bias
        if self.log_spread <= 0.0:
            return float(off >= 0.0)
        return _NORMAL.cdf(off / self.log_spread)

    def within_ms(self, chance: float) -> float:
        """The milliseconds within which the answer is there with this `chance`, between 0 and 1.

        >>> terms = Terms(node="n", bundle="b", network_ms=0, wait_ms=0, fixed_ms=99, prefill_ms=0, decode_ms=0,
        ...               prompt_tokens=1, completion_tokens=1, log_spread=0.5)
        >>> [round(terms.within_ms(chance)) for chance in (0.5, 0.95)]
        [99, 227]
        """
        off = self.log_bias + self.log_spread * _NORMAL.inv_cdf(chance)
        return (self.delay_ms + 1.0) * math.exp(off) - 1.0


class Rejected(msgspec.Struct, frozen=True):
    """A node that was no candidate, and why."""

    node: str
    reason: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one choice: candidates by delay, least first; `chosen` is None where there was none.

    In a large fleet only the best candidates and some of the rejected are named; `more_*` count the others.
    `budget_ms` was left when it was made, `cause` says why where this is not simply a question's first node.
    """

    device: str
    id: str
    attempt: int
    chosen: Terms | None
    candidates: tuple[Terms, ...]
    rejected: tuple[Rejected, ...]
    more_candidates: int = 0
    more_rejected: int = 0
    budget_ms: float | None = None
    cause: str = ""
