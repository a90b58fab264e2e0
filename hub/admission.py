"""Can anybody answer this question in time, and who most surely?

Takes a Decision of the router with what is left of the budget, and the nodes behind it; changes nothing. A false
refusal is worse than a late answer, so a question is refused only where every candidate's delays are known from its
answers and even a favourable view of its queue leaves next to no chance, or less of one than there is that another
question will miss the place, see `hub/crowding.py`. And because a refused question teaches nothing, one is let through
now and then: see `Refusals`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from hub import wire
from hub.crowding import place_missed
from hub.decision import Decision, Terms
from hub.fleet import Load, Node
from hub.recent import Recent
from hub.router import LATE_CHANCE

SURE_CHANCE: Final = 0.9  # with it nobody is refused, and another node is surer than one that will more likely be late
LEAST_CHANCE: Final = 0.05  # with less, an answer in time would be luck
FITS_CHANCE: Final = 0.5  # what whoever comes again after `retry_after_ms` should find
LEAST_RETRY_MS: Final = 100.0
TRY_AFTER_S: Final = 10.0
PROVING: Final = 6  # questions at once that a node gets whose delays are not known: as many as it takes to know them
_HALVINGS: Final = 20


def chance(terms: Terms, budget_ms: float) -> float:
    """Of an answer within `budget_ms`: that it is not too late, and that there is one at all."""
    answered = 1.0 - min(terms.risk_ms / budget_ms, 1.0) if budget_ms > 0 else 1.0
    return terms.chance_within(budget_ms) * answered


def surer(decision: Decision, node: Callable[[str], Node], now: float, unmet: float = 0.0) -> Decision:
    """The decision, with another candidate where the chosen one is not worth its place there.

    Where it would more likely be late, that is the one that is most likely in time, if that one is sure: where none is,
    a rush for the quickest makes all later. Else it is the first in the order of the ranking that is worth its place,
    as predicted or, where none is, by a favourable view of its queue. `unmet` is the share of questions that had no
    answer.
    """
    chosen, budget_ms = decision.chosen, decision.budget_ms
    if chosen is None or budget_ms is None or chance(chosen, budget_ms) >= SURE_CHANCE:
        return decision
    chances = [chance(terms, budget_ms) for terms in decision.candidates]
    if chance(chosen, budget_ms) < LATE_CHANCE and max(chances) >= SURE_CHANCE:
        return msgspec.structs.replace(decision, chosen=decision.candidates[chances.index(max(chances))])
    least = min(chance(chosen, budget_ms), LEAST_CHANCE)
    for is_worth in (_is_worth, _may_be_worth):
        for terms, in_time in zip(decision.candidates, chances, strict=True):
            if in_time >= least and is_worth(terms, node(terms.node), decision, unmet, now):
                return msgspec.structs.replace(decision, chosen=terms)
    return decision


def problem_of(decision: Decision, node: Callable[[str], Node], now: float, unmet: float = 0.0) -> wire.Problem | None:
    """Why this question is to be sent to nobody; None where somebody may be in time, or too little is known."""
    budget_ms = decision.budget_ms
    if budget_ms is None or not decision.candidates:
        return None
    if any(
        is_worth(terms, node(terms.node), decision, unmet, now)
        for is_worth in (_is_worth, _may_be_worth)
        for terms in decision.candidates
    ):
        return None
    favourable = [_at_best(terms, node(terms.node), decision.device, now) for terms in decision.candidates]
    idle = [_idle(terms) for terms in favourable]
    if all(terms.is_proven for terms in idle) and _best_chance(idle, budget_ms) < LEAST_CHANCE:
        soonest = min(idle, key=lambda terms: terms.within_ms(0.5))
        message = (
            f"no node can answer within {budget_ms:.0f} ms: the soonest, {soonest.node}, would need about "
            f"{soonest.within_ms(0.5):.0f} ms with nothing else to do: give it more time or fewer tokens"
        )
        return wire.Problem(code="deadline", message=message)
    fitting = [terms for terms in favourable if _best_chance([_idle(terms)], budget_ms) >= LEAST_CHANCE]
    too_long_ms = min((_too_long_ms(terms, node(terms.node), decision, unmet, now) for terms in fitting), default=0.0)
    message = f"every node is too busy to answer within {budget_ms:.0f} ms: ask again later"
    return wire.Problem(code="overloaded", message=message, retry_after_ms=round(max(too_long_ms, LEAST_RETRY_MS)))


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


def _at_best(terms: Terms, node: Node, device: str, now: float) -> Terms:
    return msgspec.structs.replace(terms, wait_ms=min(terms.wait_ms, least_wait_ms(node, device, now)))


def _idle(terms: Terms) -> Terms:
    return msgspec.structs.replace(terms, wait_ms=0.0)


def _left_ms(load: Load, now: float) -> float:
    return min(max((load.start_s - now) * 1000 + load.work_ms, 0.0), load.work_ms)


def _is_worth(terms: Terms, node: Node, decision: Decision, unmet: float, now: float) -> bool:
    """Whether the question may go there: it has some chance, and not less than that another one will miss its place.

    A node whose delays are not known gets as many questions as will tell, whatever it says of itself.
    """
    budget_ms = decision.budget_ms or 0.0
    if not terms.is_proven and len(node.load) < PROVING:
        return True
    in_time = terms.chance_within(budget_ms)
    if in_time < LEAST_CHANCE or in_time >= SURE_CHANCE:
        return in_time >= SURE_CHANCE
    return in_time >= place_missed(terms, node, budget_ms, unmet, now)


def _may_be_worth(terms: Terms, node: Node, decision: Decision, unmet: float, now: float) -> bool:
    """By a favourable view of the queue. That is seldom true where every place is wanted, so it must be plain there."""
    budget_ms, best = decision.budget_ms or 0.0, _at_best(terms, node, decision.device, now)
    in_time = best.chance_within(budget_ms)
    return in_time >= LEAST_CHANCE and SURE_CHANCE * in_time >= place_missed(best, node, budget_ms, unmet, now)


def _too_long_ms(terms: Terms, node: Node, decision: Decision, unmet: float, now: float) -> float:
    """By how much the wait must go down for the question to fit; a queue goes down a millisecond in a millisecond."""
    fits_ms, too_long_ms = 0.0, terms.wait_ms
    for _ in range(_HALVINGS):
        middle_ms = (fits_ms + too_long_ms) / 2
        shorter = msgspec.structs.replace(terms, wait_ms=middle_ms)
        fits = shorter.chance_within(decision.budget_ms or 0.0) >= FITS_CHANCE
        fits = fits and _is_worth(shorter, node, decision, unmet, now)
        fits_ms, too_long_ms = (middle_ms, too_long_ms) if fits else (fits_ms, middle_ms)
    return terms.wait_ms - fits_ms
