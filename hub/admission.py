"""Can anybody answer this question in time, and who most surely?

Takes a Decision of the router with what is left of the budget, and the nodes behind it; changes nothing. A false
refusal is worse than a late answer, so a question is refused only where every candidate's delays are known from its
answers and even a favourable view of its queue leaves next to no chance. And because a refused question teaches
nothing, one is let through now and then: see `Refusals`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from hub import wire
from hub.decision import Decision, Terms
from hub.fleet import Load, Node
from hub.recent import Recent
from hub.router import LATE_CHANCE

SURE_CHANCE: Final = 0.9  # must another one have: where all are late, a rush for the quickest makes all later
LEAST_CHANCE: Final = 0.05  # with less, an answer in time would be luck
FITS_CHANCE: Final = 0.5  # what whoever comes again after `retry_after_ms` should find
LEAST_RETRY_MS: Final = 100.0
TRY_AFTER_S: Final = 10.0


def chance(terms: Terms, budget_ms: float) -> float:
    """Of an answer within `budget_ms`: that it is not too late, and that there is one at all."""
    answered = 1.0 - min(terms.risk_ms / budget_ms, 1.0) if budget_ms > 0 else 1.0
    return terms.chance_within(budget_ms) * answered


def surer(decision: Decision) -> Decision:
    """The decision, with the candidate that is most likely in time where the chosen one would more likely be late."""
    chosen, budget_ms = decision.chosen, decision.budget_ms
    if chosen is None or budget_ms is None or chance(chosen, budget_ms) >= LATE_CHANCE:
        return decision
    chances = [chance(terms, budget_ms) for terms in decision.candidates]
    if max(chances) < SURE_CHANCE:
        return decision
    return msgspec.structs.replace(decision, chosen=decision.candidates[chances.index(max(chances))])


def problem_of(decision: Decision, node: Callable[[str], Node], now: float) -> wire.Problem | None:
    """Why this question can be answered by nobody in time; None where somebody may, or where too little is known."""
    budget_ms = decision.budget_ms
    if budget_ms is None or not decision.candidates or _best_chance(decision.candidates, budget_ms) >= LEAST_CHANCE:
        return None
    if not all(terms.is_proven for terms in decision.candidates):
        return None
    favourable = []
    for terms in decision.candidates:
        wait_ms = min(terms.wait_ms, least_wait_ms(node(terms.node), decision.device, now))
        favourable.append(msgspec.structs.replace(terms, wait_ms=wait_ms))
    idle = [_idle(terms) for terms in favourable]
    if _best_chance(idle, budget_ms) < LEAST_CHANCE:
        soonest = min(idle, key=lambda terms: terms.within_ms(0.5))
        message = (
            f"no node can answer within {budget_ms:.0f} ms: the soonest, {soonest.node}, would need about "
            f"{soonest.within_ms(0.5):.0f} ms with nothing else to do: give it more time or fewer tokens"
        )
        return wire.Problem(code="deadline", message=message)
    if _best_chance(favourable, budget_ms) >= LEAST_CHANCE:
        return None
    fitting = [terms for terms in favourable if _best_chance([_idle(terms)], budget_ms) >= LEAST_CHANCE]
    retry_ms = max(min(_too_long_ms(terms, budget_ms) for terms in fitting), LEAST_RETRY_MS)
    message = f"every node is too busy to answer within {budget_ms:.0f} ms: ask again later"
    return wire.Problem(code="overloaded", message=message, retry_after_ms=round(retry_ms))


def least_wait_ms(node: Node, device: str, now: float) -> float:
    """How long a new question of `device` waits there at least.

    What is late is as good as done, and devices take turns: of every other device no more questions come before it
    than its own device has there already, and one.
    """
    if len(node.load) + node.others < node.parallel:
        return 0.0
    heads, queued = node.load[: node.parallel], node.load[node.parallel :]
    own = sum(load.key[0] == device for load in queued)
    seen: Counter[str] = Counter()
    before_ms = 0.0
    for load in queued:
        seen[load.key[0]] += 1
        if load.key[0] == device or seen[load.key[0]] <= own + 1:
            before_ms += load.work_ms
    running_ms = min((_left_ms(load, now) for load in heads), default=0.0)
    others_ms = max(node.others_end_s - now, 0.0) * 1000
    return running_ms + before_ms / node.parallel + others_ms


class Refusals:
    """Since when devices and nodes have had questions refused for their deadline, and no answer.

    What is refused teaches nothing: an estimate that is wrong, of a device's answers or of a node that has become
    faster, would stay so. So the first is refused at once; after `TRY_AFTER_S` one is tried all the same.
    """

    def __init__(self, limit: int) -> None:
        self._since: Recent[tuple[str, str], float] = Recent(limit)

    def is_to_be_tried(self, device: str, node: str, now: float) -> bool:
        """Whether this one, which would be refused, is to be tried at `node`.

        >>> refusals = Refusals(10)
        >>> [refusals.is_to_be_tried("d", "n", now) for now in (0.0, 9.0, 10.0, 11.0)]
        [False, False, True, False]
        """
        due = False
        for key in (("device", device), ("node", node)):
            since_s = self._since.get(key)
            if since_s is None:
                self._since.put(key, now)
            elif now - since_s >= TRY_AFTER_S:
                due = True
                self._since.put(key, now)
        return due

    def answered(self, device: str, node: str) -> None:
        """Something was learned of both."""
        self._since.pop(("device", device))
        self._since.pop(("node", node))

    def __len__(self) -> int:
        return len(self._since)


def _best_chance(candidates: Sequence[Terms], budget_ms: float) -> float:
    return max(terms.chance_within(budget_ms) for terms in candidates)


def _idle(terms: Terms) -> Terms:
    return msgspec.structs.replace(terms, wait_ms=0.0)


def _left_ms(load: Load, now: float) -> float:
    return min(max((load.start_s - now) * 1000 + load.work_ms, 0.0), load.work_ms)


def _too_long_ms(terms: Terms, budget_ms: float) -> float:
    """By how much the wait must go down for the question to fit; a queue goes down a millisecond in a millisecond."""
    scale = (terms.within_ms(FITS_CHANCE) + 1.0) / (terms.delay_ms + 1.0)
    fitting_ms = (budget_ms + 1.0) / scale - 1.0  # a delay so long fits
    wait_ms = max(fitting_ms - _idle(terms).delay_ms, 0.0) + terms.arrival_ms
    return terms.wait_ms - wait_ms
