"""What are the other hubs at? Which of them are there, which questions they sent where, and whose heir this one is.

Hubs share the asks, and a repeat may come to another hub than its question did. So every hub hears the Work that the
others send: it recognises their questions, sees at once what they load the nodes with, and can go on where one of them
dies. The heir of those that are gone is the hub with the least name.

A hub is gone when its state says so, and it counts as gone while it is *silent*: the nodes answer this hub's pings and
not that one's, be it that it stands still, or that its link does. Its will says so only after one and a half
keepalives, and never if the broker was killed with it; until then the broker goes on giving it its share of the asks.

Keeps the fleet true to what it hears; knows nothing of the questions that this hub has in flight.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import msgspec

from hub import wire
from hub.columns import Fleet
from hub.fleet import Key, Load, Standing, freed, loaded, wait_ms, waiting
from hub.intake import Ask, Sender, fingerprint_of
from hub.questions import Attempt
from hub.recent import Recent

SWEEP_EVERY_S: Final = 1.0
MOST_HUBS: Final = 256
LOST_PINGS: Final = 3  # in a row make a hub silent, as they make a node suspect
PING_LOST_S: Final = 0.9  # every hub pings somebody once a second, and pongs do not come to the millisecond


class PeerLimits(Protocol):
    """The bounds that matter here."""

    @property
    def in_flight(self) -> int: ...
    @property
    def in_flight_bytes(self) -> int: ...
    @property
    def attempts(self) -> int: ...


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """A question that another hub has in flight, as its Work tells; the newest attempt is the last."""

    hub: str
    work: wire.Work
    attempts: tuple[Attempt, ...]
    deadline_s: float
    payload_bytes: int

    @property
    def key(self) -> Key:
        """Device and id."""
        assert self.work.question.id is not None
        return self.work.device, self.work.question.id

    @property
    def fingerprint(self) -> bytes:
        """Tells a repeat from another question under the same id."""
        return fingerprint_of(self.work.question)

    def ask(self, now: float) -> Ask:
        """The question as if it were asked now, with what is left of its budget."""
        work = self.work
        return Ask(
            sender=Sender(device=work.device, reply_to=work.reply_to, correlation=work.correlation, plain=work.plain),
            question=work.question,
            id_is_own=True,
            budget_ms=max((self.deadline_s - now) * 1000, 0.0),
            payload_bytes=self.payload_bytes,
            fingerprint=self.fingerprint,
        )


class Peers:
    """The other hubs on this broker, seen from `hub`."""

    def __init__(self, hub: str, fleet: Fleet, limits: PeerLimits) -> None:
        self._hub = hub
        self._fleet = fleet
        self._most_bytes = limits.in_flight_bytes
        self._most_attempts = limits.attempts
        self._epochs: Recent[str, int] = Recent(MOST_HUBS)
        self._there: set[str] = set()
        self._gone: set[str] = set()
        self._unheard: dict[str, tuple[int, float]] = {}  # pings of each in a row, and when the last was counted
        self._elsewhere: dict[Key, Elsewhere] = {}  # the oldest first
        self._most_questions = 4 * limits.in_flight
        self._bytes = 0

    # --- who is there -----------------------------------------------------------------------------------

    def state_published(self, name: str, payload: bytes) -> None:
        """A hub's retained state; an empty one clears it. Raises WireError."""
        if not payload:
            self._there.discard(name)
            self._gone.discard(name)
            self._unheard.pop(name, None)
            return
        state = wire.decode_hub_presence(payload)
        known = self._epochs.get(name)
        if known is not None and state.epoch < known:
            return  # a will that comes late
        if len(self._there | self._gone | {name}) > MOST_HUBS:
            return
        self._epochs.put(name, state.epoch)
        self._unheard.pop(name, None)  # a state is a sign of life, or says that there is none
        arrives, leaves = (self._there, self._gone) if state.status == "ready" else (self._gone, self._there)
        arrives.add(name)
        leaves.discard(name)

    def ping_answered(self, by: str, now: float) -> bool:
        """A node has answered a ping of the hub `by`; whether it can be counted on another hub has changed with that.

        Each time a node has answered one of this hub's pings, it would have answered one of every other hub's.
        """
        if by != self._hub:
            lost, _ = self._unheard.get(by, (0, now))
            if by in self._there:
                self._unheard[by] = 0, now
            return lost >= LOST_PINGS
        changed = False
        for other in self._there:
            lost, at_s = self._unheard.setdefault(other, (0, now))
            if now - at_s >= PING_LOST_S:
                self._unheard[other] = lost + 1, now
                changed = changed or lost + 1 == LOST_PINGS
        return changed

    def link_closed(self) -> None:
        """Who is there is told anew by retained states when the link is up again.

        Who does not say so is gone: a broker that was killed can have lost a state, and kept the session beside it.
        """
        self._unheard.clear()
        self._gone |= self._there
        self._there.clear()
        self._epochs = Recent(MOST_HUBS)

    def is_there(self, hub: str) -> bool:
        """Whether that other hub can be counted on."""
        return hub in self._there and hub not in self._silent

    @property
    def any_there(self) -> bool:
        """Whether this hub is not alone."""
        return bool(self._there)

    @property
    def left_behind(self) -> tuple[str, ...]:
        """Hubs that are gone, where this one is their heir."""
        return tuple(sorted(self._gone | self._silent)) if self._is_heir else ()

    @property
    def orphans(self) -> tuple[Elsewhere, ...]:
        """Questions whose hub is gone, where this one is its heir."""
        if not self._is_heir:
            return ()
        return tuple(each for each in self._elsewhere.values() if not self.is_there(each.hub))

    @property
    def _is_heir(self) -> bool:
        return all(self._hub < other for other in self._there - self._silent)

    @property
    def _silent(self) -> set[str]:
        return {hub for hub, (lost, _) in self._unheard.items() if lost >= LOST_PINGS}

    # --- what they have in flight -----------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._elsewhere)

    def find(self, key: Key) -> Elsewhere | None:
        """The question, if another hub has it in flight."""
        return self._elsewhere.get(key)

    def sent(self, node: str, work: wire.Work, payload_bytes: int, now: float) -> None:
        """Another hub has sent Work to a node, which is so much busier now."""
        assert work.question.id is not None
        key = (work.device, work.question.id)
        before = self._elsewhere.pop(key, None)
        others: tuple[Attempt, ...] = ()
        if before is not None:
            self._bytes -= before.payload_bytes
            others = tuple(each for each in before.attempts if each.node != node)
        attempt = self._loaded(node, key, work, now)
        deadline_s = now + work.budget_ms / 1000
        self._elsewhere[key] = Elsewhere(
            hub=work.hub,
            work=work,
            attempts=(*others, attempt)[-self._most_attempts :],
            deadline_s=deadline_s if before is None else max(deadline_s, before.deadline_s),
            payload_bytes=payload_bytes,
        )
        self._bytes += payload_bytes
        while len(self._elsewhere) > self._most_questions or self._bytes > self._most_bytes:
            self.forget(next(iter(self._elsewhere)), now)

    def done(self, node: str, done: wire.Done, now: float) -> Elsewhere | None:
        """A node has ended an attempt at another hub's question; that question, if it was one."""
        key = (done.device, done.id)
        known = self._elsewhere.get(key)
        if known is None:
            return None
        left = tuple(each for each in known.attempts if (each.node, each.number) != (node, done.attempt))
        if done.outcome == "answered" or not left:  # its hub sends it elsewhere, or has told its device
            self.forget(key, now)
        elif len(left) < len(known.attempts):
            self._free(node, key, now)
            self._elsewhere[key] = msgspec.structs.replace(known, attempts=left)
        return known

    def missing(self, node: str, keys: tuple[Key, ...], now: float) -> None:
        """The node is idle: it is not busy with these any more, whatever became of them."""
        for key in keys:
            if key in self._elsewhere:
                self._free(node, key, now)

    def take(self, key: Key) -> Elsewhere:
        """This hub goes on with the question: it is its own from now on, and so is its load."""
        known = self._elsewhere.pop(key)
        self._bytes -= known.payload_bytes
        return known

    def forget(self, key: Key, now: float) -> None:
        """The question is over, or too old."""
        for attempt in self.take(key).attempts:
            self._free(attempt.node, key, now)

    def sweep(self, now: float) -> None:
        """Forget the questions whose time is over."""
        for key in [key for key, each in self._elsewhere.items() if each.deadline_s <= now]:
            self.forget(key, now)

    def is_well(self, known: Elsewhere) -> bool:
        """Whether the node that has it can be counted on, and is still the one that got it."""
        attempt = known.attempts[-1]
        node = self._fleet.get(attempt.node)
        usable = node is not None and node.standing in (Standing.READY, Standing.DRAINING)
        return node is not None and usable and node.epoch == attempt.epoch

    # --- inside -----------------------------------------------------------------------------------------

    def _loaded(self, name: str, key: Key, work: wire.Work, now: float) -> Attempt:
        node, expected = self._fleet.get(name), work.expected
        compute_ms = expected.before_ms + expected.decode_ms
        network_ms, delay_ms, epoch = 0.0, compute_ms, -1
        if node is not None:
            epoch, network_ms, before = node.epoch, node.network_ms or 0.0, freed(node, key, now)
            wait = wait_ms(waiting(before), now, self._fleet.tail)
            delay_ms += network_ms + max(wait - network_ms / 2, 0.0)
            load = Load(
                key=key,
                sent_s=now,
                start_s=now + network_ms / 2000,
                before_ms=expected.before_ms,
                decode_ms=expected.decode_ms,
                longest_ms=math.inf,
                deadline_s=now + work.budget_ms / 1000,
            )
            self._fleet.put(loaded(before, load))
        return Attempt(
            *(work.attempt, name, epoch, work.bundle, now, delay_ms),
            *(expected.tokens, expected.before_ms, expected.decode_ms),
        )

    def _free(self, name: str, key: Key, now: float) -> None:
        node = self._fleet.get(name)
        if node is not None:
            self._fleet.put(freed(node, key, now))
