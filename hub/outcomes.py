"""A node has ended a question, or its time is over: what becomes of it?

An answer is the end, also of every other attempt. What a node gives up another one may still do. Knows nothing of
topics.
"""

from __future__ import annotations

from typing import Final

from hub import wire
from hub.accounts import Accounts
from hub.fleet import Node, Standing, freed
from hub.ledger import Ledger
from hub.lessons import Lessons, charged
from hub.peers import Elsewhere, Peers
from hub.placing import Placing
from hub.questions import Attempt, Ended, InFlight

MESSAGE_CHARS: Final = 500  # of a node's own words in a failure


class Outcomes:
    """Brings every question of `ledger` to its end."""

    def __init__(self, ledger: Ledger, placing: Placing, lessons: Lessons, peers: Peers, accounts: Accounts) -> None:
        self._ledger = ledger
        self._placing = placing
        self._lessons = lessons
        self._peers = peers
        self._accounts = accounts

    def done_somewhere(self, name: str, done: wire.Done, now: float) -> None:
        """A node has ended a question: ours, or another hub's, which a repeat may bring here."""
        key, out = (done.device, done.id), self._ledger.outbox.out
        known, before = key in self._ledger.in_flight or key in self._ledger.ended, len(out)
        ours = done.hub == self._ledger.hub or not self._peers.is_there(done.hub)
        self._become(name, done, now)
        out += self._accounts.done(self._ledger.node(name), done, ours=ours, known=known, effects=out[before:])

    def told_again(self, name: str, done: wire.Done) -> None:
        """A node's answer that this hub has missed, or had before it was started anew; it teaches nothing."""
        node = self._ledger.fleet.get(name)
        if node is not None:
            ours = done.hub == self._ledger.hub or not self._peers.is_there(done.hub)
            known = (done.device, done.id) in self._ledger.ended
            self._ledger.outbox.out += self._accounts.done(node, done, ours=ours, known=known, effects=())

    def _become(self, name: str, done: wire.Done, now: float) -> None:
        other = self._peers.done(name, done, now)
        key = (done.device, done.id)
        theirs = done.hub != self._ledger.hub and self._peers.is_there(done.hub)
        if other is not None:
            if done.outcome == "answered":
                self._answered_elsewhere(other, name, done, now)
            elif done.outcome != "cancelled":
                self._ledger.fleet.put(charged(self._ledger.node(name), done, now))
        elif done.hub == self._ledger.hub:
            self._done(name, done, now)
        elif (question := self._ledger.in_flight.get(key)) is not None and (done.outcome == "answered" or not theirs):
            if theirs:  # it has its record there
                self._ledger.counters["answered_for_others"] += question.recorded
                question.recorded = False
            self._done(name, done, now)

    def deadline_passed(self, question: InFlight, now: float) -> None:
        """The budget is spent and no outcome is known."""
        budget = f"no answer within {question.ask.budget_ms:.0f} ms"
        attempt = question.current
        if attempt is None:
            self._ledger.fail(question, "no_node", f"{budget}: no node was there to take it", now)
        else:
            self._lessons.late(attempt, now)
            self._lessons.demand.ended(now, met=False)
            self._ledger.fail(question, "deadline", f"{budget}; it was at node {attempt.node}", now)

    def _done(self, name: str, done: wire.Done, now: float) -> None:
        question = self._ledger.in_flight.get((done.device, done.id))
        node = self._ledger.node(name)
        if question is None:
            self._ledger.fleet.put(freed(node, (done.device, done.id), now))
            self._ledger.counters["late_done"] += 1
            return
        attempt = question.find(name, done.attempt)
        if done.outcome == "answered":
            self._answered(question, attempt, node, done, now)
        elif attempt is None:
            self._ledger.counters["stray_done"] += 1
        elif attempt is not question.current:
            question.attempts.remove(attempt)  # another node is at it
            question.failed_on.add(name)
            question.internal_failures += done.outcome == "internal"
            self._ledger.fleet.put(charged(freed(node, question.key, now), done, now))
        else:
            node = charged(freed(node, question.key, now), done, now)
            self._ledger.fleet.put(node)
            self._retry_or_fail(question, attempt, node, done, now)

    def _answered(self, question: InFlight, attempt: Attempt | None, node: Node, done: wire.Done, now: float) -> None:
        """The device has its answer, be it from an attempt that this hub (before a restart) does not remember."""
        if attempt is None:
            self._ledger.counters["answered_unasked"] += 1
            attempt = Attempt(done.attempt, node.name, node.epoch, done.bundle[:256], now, 0.0, 0.0)
        else:
            self._lessons.answered(
                question.key[0], question.ask.question, attempt, freed(node, question.key, now), done, now
            )
            for other in question.attempts:
                if other is not attempt:
                    self._lessons.late(other, now)
            self._ledger.fleet.took((now - question.received_s) * 1000)
        self._lessons.demand.ended(now, met=True)
        self._ledger.counters["answered"] += 1
        self._ledger.end(question, "answered", None, done, attempt, now)

    def _answered_elsewhere(self, other: Elsewhere, name: str, done: wire.Done, now: float) -> None:
        node = self._ledger.node(name)
        found = (a for a in other.attempts if (a.node, a.number) == (name, done.attempt) and a.epoch == node.epoch)
        attempt = next(found, None)
        if attempt is None:
            attempt = Attempt(done.attempt, name, node.epoch, done.bundle[:256], now, 0.0, 0.0)
        else:
            self._lessons.answered(other.key[0], other.work.question, attempt, node, done, now)
        self._ledger.ended.put(other.key, Ended(other.fingerprint, attempt, None))

    def _retry_or_fail(self, question: InFlight, attempt: Attempt, node: Node, done: wire.Done, now: float) -> None:
        """The node has given up. Another one may do better, unless the fault is the question's own."""
        self._ledger.counters[f"node_{done.outcome}"] += 1
        outcome = "internal" if done.outcome in ("cancelled", "no_node", "answered") else done.outcome
        internal = outcome == "internal"
        handed_back = outcome == "overloaded" and node.standing in (Standing.DRAINING, Standing.GONE)
        question.internal_failures += internal
        question.attempts.remove(attempt)
        if outcome == "too_large":
            contexts = [bundle.context for bundle in node.bundles if bundle.bundle == attempt.bundle]
            question.larger_than = max([question.larger_than, *contexts])
        elif not handed_back:  # it leaves, and may come back
            question.failed_on.add(node.name)
        final = outcome in ("invalid", "deadline") or (internal and question.internal_failures > 1)
        if self._placing.falls_back(question):
            return  # the other attempt goes on
        if not final and self._placing.move(question, now):
            return
        if not final and (question.attempts or handed_back):  # a node that fell silent, or left, may come back
            self._placing.mark_adrift(question, now)
            return
        message = done.message[:MESSAGE_CHARS] or f"node {node.name} ended it as {done.outcome}"
        retry_after_ms = self._ledger.retry_after_ms(now) if outcome == "overloaded" else None
        self._ledger.fail(question, outcome, message, now, by=attempt, done=done, retry_after_ms=retry_after_ms)
