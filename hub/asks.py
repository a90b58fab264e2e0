"""An ask has arrived: is it a new question, a repeat of one, or no question at all?

A repeat gets no second answer: the question in flight goes on, an ended one has its outcome told again. Knows nothing
of nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hub import events, wire
from hub.fleet import Standing
from hub.intake import Ask, Refusal, other_id, read_ask
from hub.ledger import Ledger
from hub.outbox import Reply
from hub.peers import Peers
from hub.placing import Placing
from hub.questions import Ended, InFlight, failure_for, work_for
from hub.sharing import Sharing

RESEND_AFTER_S: Final = 2.0  # a repeat or an idle node makes the hub send Work again, no sooner than this


class Asks:
    """Takes asks in; `new_id` draws an id for a question that came without one."""

    def __init__(
        self, ledger: Ledger, placing: Placing, sharing: Sharing, peers: Peers, new_id: Callable[[], str]
    ) -> None:
        self._ledger = ledger
        self._placing = placing
        self._sharing = sharing
        self._peers = peers
        self._new_id = new_id

    def asked(self, message: events.MessageReceived, device: str, now: float) -> None:
        """An ask of `device`."""
        ask = read_ask(message, device, self._new_id)
        receipts = [] if message.receipt is None else [message.receipt]
        if isinstance(ask, Refusal):
            self._ledger.counters[f"ask_{ask.failure.error.code}"] += 1
            self._ledger.outbox.reply(Reply(failure_for(ask.sender, ask.failure), receipts))
            return
        if ask.earlier:
            heard = events.AskerHeard(device=device, earlier=ask.earlier)
            self._ledger.outbox.out.append(events.StoreNote(heard))
        known = self._sharing.known_fingerprint(ask.key)
        if known is not None and known != ask.fingerprint:
            renamed = self._resolve_conflict(ask, receipts)
            if renamed is None:
                return
            ask = renamed
        if (question := self._ledger.in_flight.get(ask.key)) is not None:
            self._repeated(question, receipts, now)
        elif (ended := self._ledger.ended.get(ask.key)) is not None:
            self._asked_again(ended, ask, receipts, now)
        elif (other := self._peers.find(ask.key)) is not None:
            self._sharing.asked_elsewhere(other, ask, receipts, now)
        else:
            self._ledger.counters["asks"] += 1
            self._begin(InFlight(ask, now), receipts, now)

    def _resolve_conflict(self, ask: Ask, receipts: list[int]) -> Ask | None:
        """Another question under a known id must not get the other's answer.

        An id that came from Correlation Data is made distinct. A device's own id may be used again once its first
        question has ended (it counts from 1 again after a restart), but not before.
        """
        self._ledger.counters["id_conflicts"] += 1
        if not ask.id_is_own:
            return other_id(ask)
        if self._ledger.ended.pop(ask.key) is not None:
            return ask
        problem = wire.Problem(code="invalid", message=f"id {ask.key[1]!r} is in use by another question in flight")
        failure = wire.Failure(id=ask.key[1], error=problem)
        self._ledger.outbox.reply(Reply(failure_for(ask.sender, failure), receipts))
        return None

    def _begin(self, question: InFlight, receipts: list[int], now: float) -> None:
        """A new question: place it, let it wait for the fleet to show itself, or fail it."""
        question.receipts = receipts
        self._ledger.enter(question)
        if question.budget_ms(now) <= 0:
            self._ledger.fail(question, "deadline", "no time was left when the question reached the hub", now)
            return
        others = len(self._ledger.in_flight) - 1
        problem = self._ledger.room.problem_with(question.key[0], others, lambda: self._ledger.retry_after_ms(now), now)
        if problem is not None:
            self._ledger.fail(question, problem.code, problem.message, now, retry_after_ms=problem.retry_after_ms)
            return
        self._ledger.timers.set(("deadline", *question.key), question.deadline_s)
        self._placing.place(question, now)

    def _repeated(self, question: InFlight, receipts: list[int], now: float) -> None:
        self._ledger.counters["duplicates"] += 1
        question.duplicates += 1
        if not question.accepted:
            question.receipts += receipts  # goes with the publish under way, or with the first one
            return
        self._ledger.outbox.acknowledge(receipts)
        if now - question.published_s >= RESEND_AFTER_S:
            self._placing.publish_work(question, now)

    def _asked_again(self, ended: Ended, ask: Ask, receipts: list[int], now: float) -> None:
        """The outcome did not reach its asker, or not in time: let it be said again, at its present address."""
        self._ledger.counters["duplicates"] += 1
        if ended.failure is not None:
            self._ledger.outbox.reply(Reply(failure_for(ask.sender, ended.failure), receipts))
            return
        attempt = ended.attempt
        assert attempt is not None
        node = self._ledger.fleet.get(attempt.node)
        there = node is not None and node.standing in (Standing.READY, Standing.DRAINING)
        if node is not None and there and node.epoch == attempt.epoch:
            work = work_for(self._ledger.hub, ask, attempt, ask.budget_ms)
            self._ledger.outbox.reply(Reply(events.PublishWork(node=node.name, work=work, ticket=0), receipts))
            return
        self._ledger.counters["answers_lost_with_their_node"] += 1
        self._ledger.ended.pop(ask.key)
        self._begin(InFlight(ask, now, first_number=attempt.number + 1, recorded=False), receipts, now)
