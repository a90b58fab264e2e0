"""Where does a question go, and where next? To the best node, to a better one when that is lost, to a second one when
it is late.

A question without a node that is ready is *adrift*: it goes on as soon as there is one. Knows nothing of how nodes are
priced (`hub/chooser.py`), nor of what ends a question but that no node is left.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from hub import events, wire
from hub.chooser import Chooser
from hub.decision import Decision, Terms
from hub.eligible import refusal
from hub.fleet import Key, Standing, freed, loaded
from hub.ledger import Ledger
from hub.questions import Attempt, InFlight, load_of, work_for
from hub.second import (
    HEDGE_BURST,
    RETRY_BURST,
    RETRY_SHARE,
    WORTH_CHANCE,
    Allowance,
    Doubt,
    doubt_of,
    looked_again,
)
from hub.watch import STALL_S

WORTH_WAITING_S: Final = 3.0  # of the 5 s of budget that a node is up, it may need 2 until it is heard of


class Placing:
    """Sends the questions of `ledger` where `chooser` says. Until it is `settled`, nodes may be there unheard of."""

    def __init__(self, ledger: Ledger, chooser: Chooser, hedge_share: float) -> None:
        self.settled = False
        self._ledger = ledger
        self._chooser = chooser
        self._hedges = Allowance(hedge_share, HEDGE_BURST, 0.0)
        self._retries = Allowance(RETRY_SHARE, RETRY_BURST, RETRY_BURST)

    def place(self, question: InFlight, now: float) -> None:
        """Send a question without an attempt to the best node; without any, let it wait or fail it."""
        features = self._chooser.features(question, now)
        worth_waiting = question.deadline_s - now > WORTH_WAITING_S
        decision = self._chooser.choose(features, now, question.failed_on, last_resort=self.settled)
        if decision.chosen is None and not self.settled:
            self.mark_adrift(question, now)
        elif decision.chosen is None:
            self._refuse(question, decision, refusal(features, self._ledger.fleet), now)
        elif (problem := self._chooser.too_late(decision, now)) is not None:
            self._refuse(question, msgspec.structs.replace(decision, chosen=None), problem, now)
        elif self._ledger.node(decision.chosen.node).standing == Standing.LOST and not worth_waiting:
            self._ledger.fail(question, "no_node", "the nodes that could answer have just gone offline", now)
        else:
            if question.tries == 0:
                decision = self._chooser.explored(decision, now)
            self._dispatch(question, decision, now)

    def _refuse(self, question: InFlight, decision: Decision, problem: wire.Problem, now: float) -> None:
        decision = msgspec.structs.replace(decision, cause=f"refused: {problem.code}")
        question.decisions.append(decision)
        self._ledger.outbox.out.append(events.LogDecision(decision))
        self._ledger.fail(question, problem.code, problem.message, now, retry_after_ms=problem.retry_after_ms)

    def strand(self, keys: tuple[Key, ...], name: str, now: float) -> None:
        """These questions' node cannot be counted on: move those that it still has to a ready node, if there is one."""
        for key in keys:
            question = self._ledger.in_flight.get(key)
            if question is None or question.current is None or question.current.node != name:
                continue
            if not self.falls_back(question) and not self.move(question, now):
                self.mark_adrift(question, now)

    def falls_back(self, question: InFlight) -> bool:
        """Whether another attempt, beside the current one that is lost, is at a ready node: that one is counted on."""
        for attempt in question.attempts:
            if self._ledger.is_at_ready_node(attempt):
                question.attempts.remove(attempt)
                question.attempts.append(attempt)
                return True
        return False

    def mark_adrift(self, question: InFlight, now: float) -> None:
        """No ready node has the question: it goes on with the next one, if that comes in time."""
        self._ledger.adrift[question.key] = None
        worth_until_s = question.deadline_s - WORTH_WAITING_S
        if worth_until_s > now:
            self._ledger.timers.set(("hopeless", *question.key), worth_until_s)
        elif self.settled:
            self.give_up(question, now)
        # else the fleet is about to show itself: the end of settling or the deadline has the last word

    def rally(self, now: float) -> None:
        """A node is usable that was not: it takes what is adrift, where it is the best for it."""
        for key in list(self._ledger.adrift):
            self.move(self._ledger.in_flight[key], now)

    def move(self, question: InFlight, now: float) -> bool:
        """Whether the question has found a ready node, or its end because it has lost too many."""
        decision = self._chooser.choose(self._chooser.features(question, now), now, question.failed_on)
        if decision.chosen is None:
            return False
        if question.tries >= self._ledger.limits.attempts and not self._has(question, decision.chosen):
            lost = f"{question.tries} nodes in turn were lost or gave up while they had it"
            self._ledger.fail(question, "internal", lost, now)
            return True
        self._dispatch(question, decision, now)
        return True

    def give_up(self, question: InFlight, now: float) -> None:
        """Too little time is left for a node to appear and to answer."""
        if not self._ledger.has_living_node(question):
            why = "its node was lost and none came in its place" if question.attempts else "no node came"
            self._ledger.fail(question, "no_node", f"{why}: start one with `edge-agent serve`", now)

    def _dispatch(self, question: InFlight, decision: Decision, now: float) -> None:
        terms = decision.chosen
        assert terms is not None
        node = self._ledger.node(terms.node)
        if self._has(question, terms):
            assert question.current is not None
            decision = msgspec.structs.replace(decision, attempt=question.current.number)
        else:
            question.attempts.append(
                Attempt(
                    question.next_number,
                    node.name,
                    node.epoch,
                    terms.bundle,
                    now,
                    terms.delay_ms,
                    terms.completion_tokens,
                    terms.fixed_ms + terms.prefill_ms,
                    terms.decode_ms,
                    node.network_ms,
                    question.ask.payload_bytes,
                )
            )
            question.decisions.append(decision)
            question.next_number += 1
            if question.tries == 0:
                self._hedges.earn()
                self._retries.earn()
            question.tries += 1
        load = load_of(question, terms, now)
        self._ledger.fleet.put(loaded(freed(node, question.key, now), load))
        self.publish_work(question, now)
        self._ledger.outbox.out.append(events.LogDecision(decision))
        if node.standing == Standing.READY:
            self._ledger.adrift.pop(question.key, None)
            self._ledger.timers.cancel(("hopeless", *question.key))
            once = self._chooser.minds_deadlines and not question.second
            self._look_later(question, doubt_of(question.ask, terms, load, now) if once else None)
        else:
            self.mark_adrift(question, now)

    def _has(self, question: InFlight, terms: Terms) -> bool:
        """Whether the chosen node is the one that the question is at already, in this life of it."""
        current, node = question.current, self._ledger.node(terms.node)
        return current is not None and (current.node, current.epoch, current.bundle) == (
            node.name,
            node.epoch,
            terms.bundle,
        )

    def publish_work(self, question: InFlight, now: float) -> None:
        """Give the current attempt's node its Work, be it for the second time."""
        attempt = question.current
        assert attempt is not None
        question.accepted = False
        question.published_s = now
        budget_ms = question.budget_ms(now)
        node = self._ledger.fleet.get(attempt.node)
        if node is not None and node.standing == Standing.LOST:
            # When the question is given up, the Work must be gone too: no answer after a failure.
            budget_ms = max(budget_ms - WORTH_WAITING_S * 1000, 0.0)
        work = work_for(self._ledger.hub, question.ask, attempt, budget_ms)
        waited_ms = (now - question.received_s) * 1000
        effect = events.PublishWork(
            node=attempt.node, work=work, ticket=0, waited_ms=waited_ms, trace=question.ask.trace
        )
        self._ledger.outbox.publish_work(question.key, effect)

    # --- a second attempt -------------------------------------------------------------------------------

    def _look_later(self, question: InFlight, doubt: Doubt | None) -> None:
        question.doubt = doubt
        if doubt is None:
            self._ledger.timers.cancel(("second", *question.key))
        else:
            self._ledger.timers.set(("second", *question.key), doubt.next_s)

    def doubt(self, question: InFlight, now: float) -> None:
        """The current attempt takes longer than it should."""
        doubt, attempt = question.doubt, question.current
        assert doubt is not None
        if attempt is None or question.key in self._ledger.adrift:
            return  # it goes to the next node that is ready, and is looked at then
        hedging = now < doubt.silent_at_s
        node = self._ledger.node(attempt.node)
        if now - doubt.next_s > STALL_S or (not hedging and node.ended_s > doubt.looked_s):
            pass  # this hub was held up, and the outcome may be in its socket; or the node is busy with others
        elif self._try_second(question, "hedge" if hedging else "silence", now):
            return
        if hedging and now - doubt.next_s <= STALL_S:
            self._look_later(question, msgspec.structs.replace(doubt, hedge_at_s=math.inf))
        else:
            self._look_later(question, looked_again(doubt, doubt.silent_at_s - doubt.looked_s, now))

    def _try_second(self, question: InFlight, why: str, now: float) -> bool:
        """Whether a second node tries as well: there is one that will be in time, and the budget for it."""
        allowance = self._hedges if why == "hedge" else self._retries
        if allowance.is_spent or not self._ledger.outbox.is_open or question.tries >= self._ledger.limits.attempts:
            return False
        features = self._chooser.features(question, now)
        others = question.failed_on | {attempt.node for attempt in question.attempts}
        decision = self._chooser.choose(features, now, others)
        terms = decision.chosen
        if terms is None or terms.chance_within(question.budget_ms(now)) < WORTH_CHANCE or not allowance.take():
            return False
        self._ledger.counters[f"second_{why}"] += 1
        question.second = why
        question.second_number = question.next_number
        self._dispatch(question, msgspec.structs.replace(decision, cause=why), now)
        return True
