"""Which questions are this hub's and which another's, and when does one change hands?

A repeat may come to another hub than its question did, and a hub may die with questions in flight. Of two hubs at one
question the one with the later attempt has it, or with the greater name. What other hubs are at is in `hub/peers.py`.
"""

from __future__ import annotations

import msgspec

from hub import events, wire
from hub.fleet import Key
from hub.intake import Ask, fingerprint_of
from hub.ledger import Ledger
from hub.peers import SWEEP_EVERY_S, Elsewhere, Peers
from hub.placing import Placing
from hub.questions import InFlight


class Sharing:
    """Hands questions of `ledger` over to other hubs, and takes over theirs."""

    def __init__(self, ledger: Ledger, placing: Placing, peers: Peers) -> None:
        self._ledger = ledger
        self._placing = placing
        self._peers = peers
        self._hears_work = False

    def known_fingerprint(self, key: Key) -> bytes | None:
        """Of the question under this id, wherever it is; None where there is none."""
        question = self._ledger.in_flight.get(key)
        if question is not None:
            return question.ask.fingerprint
        known = self._ledger.ended.get(key) or self._peers.find(key)
        return known.fingerprint if known is not None else None

    def mind_peers(self, now: float) -> None:
        """Hear what others send as soon as there are any, and go on with what those left behind whose heir we are."""
        if self._peers.any_there != self._hears_work and (self._placing.settled or not self._hears_work):
            self._hears_work = not self._hears_work
            self._ledger.outbox.out.append(events.HearWork(self._hears_work))
        if self._placing.settled:
            self._ledger.outbox.out += [events.TakeOverAsks(hub) for hub in self._peers.left_behind]
            for other in self._peers.orphans:
                self._take_over(other, other.ask(now), now)

    def asks_taken_over(self, hub: str) -> None:
        """What the broker kept for a hub that is gone comes here now."""
        if hub in self._peers.left_behind:  # it may have come back
            self._ledger.outbox.out.append(events.ForgetHub(hub))

    def sent_elsewhere(self, name: str, payload: bytes, now: float) -> None:
        """Another hub has sent a question to a node: a repeat of it is known from now on, and so is the load."""
        work = wire.decode_work(payload)
        assert work.question.id is not None
        key = (work.device, work.question.id)
        known = self.known_fingerprint(key)
        if work.hub == self._ledger.hub or (known is not None and known != fingerprint_of(work.question)):
            return  # a device that uses an id twice is told so where it asks
        question, ended = self._ledger.in_flight.get(key), self._ledger.ended.get(key)
        if question is not None:
            mine = question.current
            if mine is not None and (mine.number, self._ledger.hub) > (work.attempt, work.hub):
                self._placing.publish_work(question, now)  # so that the other one hears of it
                return
            self._ledger.counters["handed_over"] += question.recorded  # else it had its record before
            self._ledger.let_go(question, name, now)
            self._ledger.outbox.out.append(events.EndTrace(device=key[0], id=key[1], outcome=events.HANDED_OVER))
        elif ended is not None:
            if ended.attempt is not None and work.attempt <= ended.attempt.number:
                return  # its answer is told again
            self._ledger.ended.pop(key)
        self._peers.sent(name, work, len(payload), now)
        self._ledger.timers.set(("sweep",), now + SWEEP_EVERY_S)

    def asked_elsewhere(self, other: Elsewhere, ask: Ask, receipts: list[int], now: float) -> None:
        """A repeat of a question that another hub has in flight."""
        self._ledger.counters["duplicates"] += 1
        self._ledger.outbox.acknowledge(receipts)  # a broker had its Work: it is not lost with this hub
        if self._placing.settled and not (self._peers.is_there(other.hub) and self._peers.is_well(other)):
            self._take_over(other, ask, now)

    def _take_over(self, other: Elsewhere, ask: Ask, now: float) -> None:
        """Go on with a question that another hub had: say so by its Work, or move it, where its node is lost."""
        size = other.payload_bytes
        if ask.budget_ms <= 0 or not self._ledger.has_room(size):
            return  # a repeat will come
        self._ledger.counters["taken_over"] += 1
        question = InFlight(msgspec.structs.replace(ask, payload_bytes=size), now)
        question.attempts += self._peers.take(other.key).attempts
        question.tries = len(question.attempts)
        question.next_number = max(attempt.number for attempt in question.attempts) + 1
        question.accepted = True
        self._ledger.enter(question)
        self._ledger.timers.set(("deadline", *question.key), question.deadline_s)
        if self._peers.is_well(other):
            self._placing.publish_work(question, now)
        elif not self._placing.move(question, now):
            self._placing.mark_adrift(question, now)
