"""What does a message change in the mind of a hub or node? Hands garbage to their cores and compares what they know.

Nothing but counters may change for what is malformed, and that is compared byte by byte. What is odd but valid may
change what it is about, within the limits. Knows no sockets; `now` moves on by a millisecond a message.
"""

from __future__ import annotations

import collections
import io
import itertools
import pickle
import types
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from edge_agent import core as agent
from edge_agent import events as agent_events
from edge_agent.runtime.generation import Generation
from hub import events, wire
from hub.core import Core, Limits
from hub.errors import WireError

from .garbage import VALID, Wild

LIMITS: Final = Limits(
    in_flight=64, in_flight_bytes=8_000_000, ended=200, nodes=16, bundles_per_node=8, devices=16, unaccepted=64
)
STEP_S: Final = 0.001
IN_A_ROW: Final = 50  # malformed messages between two comparisons, at most
QUEUED: Final = 8
UNANSWERED: Final = 8  # pieces of Work at a time
_DECODE: Final[dict[str, Callable[[bytes], object]]] = {  # what a hub named "hub" listens to
    "ask": wire.decode_question,
    "node_state": wire.decode_node_state,
    "report": wire.decode_report,
    "work": wire.decode_work,
    "hub_state": wire.decode_hub_presence,
}


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages were malformed, how many only odd, and what the hub counted."""

    malformed: int
    odd: int
    counters: dict[str, int]


def is_malformed(message: Wild) -> bool:
    """Whether a hub must drop it: a foreign topic, a kind it does not listen to, or what `wire` does not decode."""
    topic = wire.Topic.parse(message.topic)
    if topic is None or topic.kind not in _DECODE or (topic.kind == "hub_state" and topic.name == "hub"):
        return True
    is_state = topic.kind in ("node_state", "hub_state")
    if message.retained and not is_state:
        return True
    try:
        _DECODE[topic.kind](message.payload)
    except WireError:
        return not (is_state and not message.payload)  # an empty one clears a retained state
    return False


class Hub:
    """A hub with one ready node, whose broker accepts everything at once. Work is answered, each a little later."""

    def __init__(self) -> None:
        drawn = itertools.count(1)
        self._receipts = itertools.count(1)
        self._acknowledged: Counter[int] = Counter()
        self._works: collections.deque[events.PublishWork] = collections.deque()
        self.core = Core("hub", new_id=lambda: f"drawn-{next(drawn)}", limits=LIMITS)
        self.now = 100.0
        self.handle(events.LinkOpened())
        self.now += 2.1
        self.handle(events.TimePassed())
        state = msgspec.json.encode({**VALID["node_state"][0], "parallel": 1, "epoch": 1})
        self.handle(events.MessageReceived(topic="edge/v1/node/n1/state", payload=state))

    def handle(self, event: events.Event) -> list[events.Effect]:
        """Let it happen; what that publishes is accepted."""
        effects = self.core.handle(event, self.now)
        for effect in effects:
            if isinstance(effect, events.AcknowledgeAsk):
                self._acknowledged[effect.receipt] += 1
            if isinstance(effect, events.PublishWork):
                self._works.append(effect)
            if isinstance(effect, events.PublishWork | events.PublishFailure):
                self.handle(events.PublishAccepted(effect.ticket))
        return effects

    def suffer(self, messages: Iterable[Wild]) -> Tally:
        """Take them all. AssertionError names those of which one changed what it must not."""
        malformed = odd = 0
        in_a_row: list[Wild] = []
        for message in messages:
            if is_malformed(message):
                malformed += 1
                in_a_row.append(message)
                if len(in_a_row) < IN_A_ROW:
                    continue
            self._drop(in_a_row)
            in_a_row = []
            if not is_malformed(message):
                odd += 1
                self.now += STEP_S
                self._receive(message)
                while len(self._works) > UNANSWERED:
                    self._answer_oldest()
                self._check_bounds()
        self._drop(in_a_row)
        return Tally(malformed=malformed, odd=odd, counters=dict(self.core.counters))

    def _drop(self, malformed: list[Wild]) -> None:
        """At one moment, so that nothing else happens: after them everything must be as it was."""
        self.now += STEP_S * len(malformed)
        self.handle(events.TimePassed())
        before = fingerprint(self.core)
        for message in malformed:
            effects = self._receive(message)
            assert all(_is_reply(effect) for effect in effects), f"{effects} for {message!r:.2000}"
        if fingerprint(self.core) != before:
            raise AssertionError("one of these changed the hub: " + "\n".join(f"{one!r:.2000}" for one in malformed))

    def answers(self) -> bool:
        """Whether a valid question is still sent to a node, and its end taken from there."""
        state = msgspec.json.encode({**VALID["node_state"][0], "epoch": 2**53})
        self.handle(events.MessageReceived(topic="edge/v1/node/n1/state", payload=state))
        while self._works:
            self._answer_oldest()
        text = b'{"id": "last", "question": "Still there?"}'
        self.handle(events.MessageReceived(topic="edge/v1/ask/z", payload=text, receipt=0))
        if not self._works:
            return False
        answered = self.core.counters["answered"]
        self._answer_oldest()
        return self.core.counters["answered"] == answered + 1

    def _answer_oldest(self) -> None:
        published = self._works.popleft()
        work = published.work
        assert work.question.id is not None
        done = wire.Done(
            hub="hub", device=work.device, id=work.question.id, attempt=work.attempt, bundle=work.bundle,
            outcome="answered",
        )  # fmt: skip
        topic = str(wire.Topic("report", published.node))
        self.handle(events.MessageReceived(topic=topic, payload=wire.encode(done)))

    def _receive(self, message: Wild) -> list[events.Effect]:
        receipt = next(self._receipts)
        effects = self.handle(
            events.MessageReceived(
                topic=message.topic,
                payload=message.payload,
                retained=message.retained,
                receipt=receipt,
                response_topic=message.response_topic,
                correlation=message.correlation,
                expiry_s=message.expiry_s,
            )
        )
        times = self._acknowledged.pop(receipt, 0)
        assert times == 1, f"acknowledged {times} times: {message!r:.2000}"
        return effects

    def _check_bounds(self) -> None:
        assert len(self.core.fleet) <= LIMITS.nodes
        assert self.core.in_flight <= LIMITS.in_flight + 1
        assert not self._acknowledged


class Node:
    """A node that is sent Work, control and what hubs say, and an asker that is sent replies. Work is never ended by
    the worker, so that the queue fills up; its deadline ends it.
    """

    def __init__(self) -> None:
        served = msgspec.convert(VALID["node_state"][0]["bundles"][0], wire.ServedBundle)
        self.core = agent.NodeCore("n1", {served.bundle: served}, queue_limit=QUEUED, remembered_limit=QUEUED)
        self.now = 100.0

    def suffer(self, messages: Iterable[Wild]) -> Tally:
        """Take them all: what does not decode is refused with WireError and with nothing else."""
        malformed = odd = 0
        for message in messages:
            self.now += STEP_S
            before = self.core.backlog(self.now)
            try:
                self._receive(message)
                odd += 1
            except WireError:
                malformed += 1
                assert self.core.backlog(self.now) == before, f"a malformed message changed the node: {message!r:.2000}"
            assert self.core.backlog(self.now).questions <= QUEUED + 1
        return Tally(malformed=malformed, odd=odd, counters={})

    def _receive(self, message: Wild) -> None:
        topic = wire.Topic.parse(message.topic)
        if topic is None:
            raise WireError("invalid", "foreign topic")
        if topic.kind == "work":
            self._handle(agent_events.WorkReceived(wire.decode_work(message.payload)))
        elif topic.kind == "control":
            self._handle(agent_events.ControlReceived(wire.decode_control(message.payload), self.now))
        elif topic.kind == "hub_state":
            wire.decode_hub_state(message.payload)
        elif topic.kind == "answer":
            wire.decode_reply(message.payload)
        else:
            raise WireError("invalid", "not for a node")

    def _handle(self, event: agent_events.Event) -> None:
        for effect in self.core.handle(event, self.now):
            if isinstance(effect, agent_events.StopWork):
                cancelled = Generation(
                    text="", token_ids=(), finish="cancelled", tokens=wire.Tokens(), prefill_ms=0.0, decode_ms=0.0,
                    compute_ms=0.0,
                )  # fmt: skip
                self._handle(agent_events.WorkFinished(effect.key, cancelled))


def _is_reply(effect: events.Effect) -> bool:
    """All that a malformed message may bring about."""
    return isinstance(effect, events.PublishFailure | events.AcknowledgeAsk)


class _Pickler(pickle.Pickler):
    """Writes counters as if nothing had been counted, and functions without what they hold."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Counter):
            return Counter, ()
        return (str, ()) if isinstance(value, types.FunctionType) else NotImplemented


def fingerprint(core: Core) -> bytes:
    """Everything that a hub knows, as bytes: equal where nothing has changed but counters and the last ticket."""
    outbox = core._ledger.outbox
    number, out = outbox._last_ticket, outbox.out
    outbox._last_ticket, outbox.out = 0, []
    try:
        file = io.BytesIO()
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(vars(core))
        return file.getvalue()
    finally:
        outbox._last_ticket, outbox.out = number, out
