"""Will the place that a question takes in a node's queue be missed by another question?

Where nodes are not busy, a question that has little chance of an answer in time costs nobody anything. In an overload
it does: each node's queue stands as long as the deadline allows, and who is let in keeps another one out. Pure; knows
of questions only what share of them had no answer in the last minute, and of a node its answers and its queue.
"""

from __future__ import annotations

import math
from typing import Final

from hub.decision import Terms
from hub.delay import FLOW_TAU_S, use_of
from hub.fleet import Node

FAIR: Final = 1e-6  # of a drift: with less the queue goes up as often as down


class Demand:
    """What share of the questions found no answer in time: work that was wanted and that no node's answers show.

    >>> demand = Demand()
    >>> for second in range(600): demand.ended(float(second), met=second % 5 > 0)
    >>> round(demand.unmet, 1)
    0.2
    """

    def __init__(self) -> None:
        self._all = self._unmet = 0.0  # sums that decay with FLOW_TAU_S
        self._at_s = 0.0

    def ended(self, now: float, *, met: bool) -> None:
        """One more question was answered, or was refused because every node was busy, or came too late."""
        keep = math.exp(-max(now - self._at_s, 0.0) / FLOW_TAU_S)
        self._at_s = now
        self._all = keep * self._all + 1.0
        self._unmet = keep * self._unmet + (not met)

    @property
    def unmet(self) -> float:
        """Less than 1: of those of the last minute or so, and of one that was answered."""
        return self._unmet / (self._all + 1.0)


def place_missed(terms: Terms, node: Node, budget_ms: float, unmet: float, now: float) -> float:
    """How likely the queue, now `terms.visible_wait_ms` long, grows up to the deadline before it runs empty.

    If it runs empty first, the node would have had nothing to do with the time that the question takes. If not, a
    later question with the same deadline finds no place because of this one. Gambler's ruin (Feller, An Introduction
    to Probability Theory, volume 1, chapter XIV) for the workload of an M/M/1 queue: it gets from `wait` to `longest`
    before it gets to 0 with a chance of `(e ** (drift * wait) - 1) / (e ** (drift * longest) - 1)`; without drift that
    is `wait / longest`. The drift is `(1 - wanted) / work`. The share of its time for which the node would be wanted,
    if all questions were answered, is that for which it was busy with answers, divided by the share of questions that
    had one (`1 - unmet`): in an overload more than 1.
    """
    flow = node.flow
    if flow is None or flow.answers <= 0:
        return 0.0
    room_ms = (budget_ms + 1.0) * math.exp(-terms.log_bias) - 1.0 - terms.delay_ms  # that an even chance leaves
    wait_ms = terms.visible_wait_ms
    if room_ms <= 0.0 or wait_ms <= 0.0:
        return float(room_ms <= 0.0 < wait_ms)
    work_ms = max(flow.compute_ms / flow.answers / node.parallel, 1e-3)
    drift = (1.0 - min(use_of(flow, node.parallel, now)[1], 1.0) / (1.0 - unmet)) / work_ms
    longest_ms = wait_ms + room_ms
    if abs(drift * longest_ms) < FAIR:
        return wait_ms / longest_ms
    if drift < 0.0:
        return math.expm1(drift * wait_ms) / math.expm1(drift * longest_ms)
    return math.exp(-drift * room_ms) * math.expm1(-drift * wait_ms) / math.expm1(-drift * longest_ms)
