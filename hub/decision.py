"""What the router decided, with every candidate's terms: values only."""

from __future__ import annotations

import msgspec


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of the predicted delay of one question on one node, milliseconds.

    `delay = network + max(wait - network / 2, 0) + fixed + prefill + decode`
    (`prefill` and `decode` here are already multiplied by their tokens).
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

    @property
    def visible_wait_ms(self) -> float:
        """What is left of the wait when the question arrives: a queue drains while it travels."""
        return max(self.wait_ms - self.network_ms / 2, 0.0)

    @property
    def delay_ms(self) -> float:
        """The predicted milliseconds from the hub's receipt to the answer.

        >>> Terms(node="n", bundle="b", network_ms=60, wait_ms=50, fixed_ms=1, prefill_ms=2, decode_ms=3,
        ...       prompt_tokens=1, completion_tokens=1).delay_ms
        86.0
        """
        return self.network_ms + self.visible_wait_ms + self.fixed_ms + self.prefill_ms + self.decode_ms


class Rejected(msgspec.Struct, frozen=True):
    """A node that was no candidate, and why."""

    node: str
    reason: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one choice: candidates by delay, least first; `chosen` is None where there was none.

    In a large fleet only the best candidates and some of the rejected are named; `more_*` count the others.
    """

    device: str
    id: str
    attempt: int
    chosen: Terms | None
    candidates: tuple[Terms, ...]
    rejected: tuple[Rejected, ...]
    more_candidates: int = 0
    more_rejected: int = 0
