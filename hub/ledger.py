"""Every question that the hub knows: in flight, adrift, or ended; and how one ends.

What a question's end takes with it is here: its alarms, its room, its load on the nodes, the ask's acknowledgement,
and the record. Holds what all parts of the core act on; knows nothing of how a node is chosen.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from hub import events, wire
from hub.admission import LEAST_RETRY_MS
from hub.columns import Fleet
from hub.fleet import Key, Node, Standing, freed
from hub.outbox import Outbox, Reply
from hub.questions import Attempt, Ended, InFlight, failure_for, record_of
from hub.recent import Recent
from hub.router import least_wait_ms
from hub.shares import Rate, Room
from hub.timers import Timers


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the memory. Beyond `in_flight*` a question is `overloaded`; the rest forgets the oldest."""

    in_flight: int = 4096
    in_flight_bytes: int = 64 * 1024 * 1024
    ended: int = 10_000
    nodes: int = 10_000
    bundles_per_node: int = 64
    devices: int = 10_000
    unaccepted: int = 10_000
    attempts: int = 8


class Ledger:
    """The questions of `hub`, its fleet, and what is to go out because of them.

    `device_rate` bounds what each device may ask, `device_in_flight` what it may have in flight, and so does
    `fair_shares` when the hub is crowded.
    """

    def __init__(
        self,
        hub: str,
        limits: Limits,
        *,
        device_rate: Rate | None = None,
        device_in_flight: int | None = None,
        fair_shares: bool = False,
    ) -> None:
        self.hub = hub
        self.limits = limits
        self.counters: Counter[str] = Counter()
        self.fleet = Fleet()
        self.timers = Timers()
        self.outbox = Outbox(self.counters, limits.unaccepted)
        self.room = Room(
            *(limits.in_flight, limits.in_flight_bytes, limits.devices),
            device_rate=device_rate,
            device_in_flight=device_in_flight,
            fair_shares=fair_shares,
        )
        self.in_flight: dict[Key, InFlight] = {}
        self.adrift: dict[Key, None] = {}  # in order of their coming adrift
        self.ended: Recent[Key, Ended] = Recent(limits.ended)

    def is_in_flight(self, done: wire.Done) -> bool:
        """Whether this may be the end of a question."""
        return (done.device, done.id) in self.in_flight

    def has_room(self, size_bytes: int) -> bool:
        """Whether one more question of this size may be in flight."""
        used, most = self.room.shares.size_bytes, self.limits
        return len(self.in_flight) < most.in_flight and used + size_bytes <= most.in_flight_bytes

    def enter(self, question: InFlight) -> None:
        """The question is in flight here from now on."""
        self.in_flight[question.key] = question
        self.room.shares.add(question.key[0], question.ask.payload_bytes)

    def fail(
        self,
        question: InFlight,
        code: str,
        message: str,
        now: float,
        *,
        by: Attempt | None = None,
        done: wire.Done | None = None,
        retry_after_ms: float | None = None,
    ) -> None:
        """The end without an answer: its asker hears why."""
        problem = wire.Problem(
            code=code,  # type: ignore[arg-type]  # callers give one of wire.Code
            message=message,
            retry_after_ms=retry_after_ms,
        )
        failure = wire.Failure(id=question.key[1], error=problem)
        self.counters[f"failed_{code}"] += 1
        self.outbox.reply(Reply(failure_for(question.ask.sender, failure), question.receipts))
        question.receipts = []
        self.end(question, code, failure, done, by or question.current, now)

    def end(
        self,
        question: InFlight,
        outcome: str,
        failure: wire.Failure | None,
        done: wire.Done | None,
        by: Attempt | None,
        now: float,
    ) -> None:
        """Forget the question, but for its outcome; every other attempt at it is called off."""
        self.let_go(question, by.node if failure is None and by is not None else None, now)
        self.ended.put(question.key, Ended(question.ask.fingerprint, by if failure is None else None, failure))
        if question.recorded:
            record = record_of(question, self.hub, outcome, self.fleet, done, by, now)
            self.outbox.out.append(events.StoreRecord(record, trace=question.ask.trace))
        else:
            device, question_id = question.key
            self.outbox.out.append(events.EndTrace(device=device, id=question_id, outcome=outcome))

    def let_go(self, question: InFlight, but: str | None, now: float) -> None:
        """The question is not in flight here any more; what other nodes than `but` do about it is called off."""
        key = question.key
        del self.in_flight[key]
        self.room.shares.remove(key[0], question.ask.payload_bytes)
        self.adrift.pop(key, None)
        self.timers.cancel(("deadline", *key))
        self.timers.cancel(("hopeless", *key))
        self.timers.cancel(("second", *key))
        self.outbox.forget_work(key)
        self.outbox.acknowledge(question.receipts)  # an answered question needs no redelivery, accepted Work or not
        for attempt in question.attempts:
            node = self.fleet.get(attempt.node)
            if node is None or node.epoch != attempt.epoch:
                continue
            self.fleet.put(freed(node, key, now))
            if self.outbox.is_open and node.name != but:
                cancel = wire.Cancel(device=key[0], id=key[1], attempt=attempt.number)
                self.outbox.out.append(events.PublishControl(node=node.name, control=cancel))

    def retry_after_ms(self, now: float) -> float:
        """When an asker should try again: when the node with the shortest queue is free."""
        return max(round(least_wait_ms(self.fleet, now)), LEAST_RETRY_MS)

    def has_living_node(self, question: InFlight) -> bool:
        """Whether the node that has the question may still answer it."""
        attempt = question.current
        node = self.fleet.get(attempt.node) if attempt is not None else None
        if node is None or attempt is None or node.epoch != attempt.epoch:
            return False
        return node.standing in (Standing.READY, Standing.SUSPECT, Standing.DRAINING)

    def is_at_ready_node(self, attempt: Attempt) -> bool:
        """Whether that node can be counted on."""
        node = self.fleet.get(attempt.node)
        return node is not None and node.epoch == attempt.epoch and node.standing == Standing.READY

    def node(self, name: str) -> Node:
        """One that is known to be there."""
        node = self.fleet.get(name)
        assert node is not None, name
        return node
