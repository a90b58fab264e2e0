"""Which node gets this question? The router's ranking, and what deadlines, refusals and learning make of it.

The formula is in `hub/router.py`, or, for few rows, in `hub/few.py`. Chooses; sends nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set

from hub import wire
from hub.admission import problem_of, surer
from hub.columns import Fleet
from hub.decision import Decision
from hub.eligible import Features
from hub.explore import EXPLORING_SHARE, exploring
from hub.few import FEW, PRICINGS, choose_among_few
from hub.fleet import Node, Standing
from hub.lessons import Lessons
from hub.questions import InFlight
from hub.router import Ranking, choose


class Chooser:
    """Chooses from `fleet` by `rank`.

    `draw` gives a number from 0 to 1 by chance, for which few questions go to a node to learn of it.
    """

    def __init__(
        self,
        fleet: Fleet,
        lessons: Lessons,
        counters: Counter[str],
        *,
        rank: Ranking,
        draw: Callable[[], float],
        minds_deadlines: bool,
    ) -> None:
        self.minds_deadlines = minds_deadlines
        self._fleet = fleet
        self._lessons = lessons
        self._counters = counters
        self._rank = rank
        self._pricing = PRICINGS.get(rank)
        self._draw = draw

    def features(self, question: InFlight, now: float) -> Features:
        """What the question's delay depends on."""
        return self._lessons.features(question, now)

    def choose(self, features: Features, now: float, exclude: Set[str], *, last_resort: bool = False) -> Decision:
        """The best node but those to `exclude`; where no node is ready, as a `last_resort` one that may come back."""
        if self._pricing is not None and self._fleet.size <= FEW:
            decision = choose_among_few(
                *(features, self._fleet, now, exclude), last_resort=last_resort, pricing=self._pricing
            )
        else:
            decision = choose(features, self._fleet, now, exclude, last_resort=last_resort, rank=self._rank)
        if not self.minds_deadlines:
            return decision
        return surer(decision, self._node, now, self._lessons.demand.unmet)

    def explored(self, decision: Decision, now: float) -> Decision:
        """The decision for a new question; now and then for a node that nobody knows by now."""
        return exploring(decision, self._node, now) if self._draw() < EXPLORING_SHARE else decision

    def too_late(self, decision: Decision, now: float) -> wire.Problem | None:
        """Why nobody will answer a new question in time; None also where it is to be tried all the same."""
        chosen = decision.chosen
        if chosen is None or not self.minds_deadlines or self._node(chosen.node).standing != Standing.READY:
            return None
        problem = problem_of(decision, self._node, now, self._lessons.demand.unmet)
        if problem is None:
            return None
        if problem.code == "overloaded":
            self._lessons.demand.ended(now, met=False)
            return problem
        if self._lessons.refusals.is_to_be_tried(decision.device, chosen.node, now):
            self._counters["tried_against_the_odds"] += 1
            return None
        return problem

    def _node(self, name: str) -> Node:
        node = self._fleet.get(name)
        assert node is not None, name
        return node
