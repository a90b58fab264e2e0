"""Drives a Core in tests: says what happens in a few words, and gives back what it wants done."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from hub import events, wire
from hub.core import Core

BUNDLE = wire.ServedBundle(
    bundle="smol-int4",
    model="smol",
    task="text-generation",
    context=2048,
    fixed_ms=2.0,
    prefill_ms_per_token=1.0,
    decode_ms_per_token=5.0,
)
TIMING = wire.Timing(queue=1.0, prefill=39.0, decode=40.0, compute=80.0)
TOKENS = wire.Tokens(prompt=37, completion=8)
EXPECTED = wire.Expected(before_ms=39.0, decode_ms=41.0, tokens=8.0)


def bundle(**changes: Any) -> wire.ServedBundle:
    """BUNDLE, but for `changes`."""
    return msgspec.structs.replace(BUNDLE, **changes)


class Driver:
    """A core named `hub`, its clock at `now`; effects of each step are returned, logs of decisions left out."""

    def __init__(self, *, link: bool = True, settled: bool = True, **options: Any) -> None:
        drawn = itertools.count(1)
        self.core = Core("hub", new_id=lambda: f"drawn-{next(drawn)}", **options)
        self.now = 100.0
        self.receipts = itertools.count(1)
        self.seqs: dict[str, int] = {}
        self.decisions: list[Any] = []
        if link:
            self.do(events.LinkOpened())
        if link and settled:
            self.wait(2.0)

    def do(self, event: events.Event) -> list[events.Effect]:
        effects = self.core.handle(event, self.now)
        kept: list[events.Effect] = []
        for effect in effects:
            if isinstance(effect, events.LogDecision):
                self.decisions.append(effect.decision)
                continue
            if isinstance(effect, events.PublishControl) and isinstance(effect.control, wire.Ping):
                self.seqs[effect.node] = effect.control.seq
            kept.append(effect)
        return kept

    def wait(self, seconds: float) -> list[events.Effect]:
        """Let time pass; every wake is served when it is due. Pings are left out."""
        end, found = self.now + seconds, []
        while (wake := self.core.next_wake(self.now)) is not None and wake <= end:
            self.now = wake
            found += self.do(events.TimePassed())
        self.now = end
        return without_pings(found)

    def wait_ponging(self, seconds: float, *names: str) -> list[events.Effect]:
        """Let time pass while these nodes answer every ping at once."""
        end, found = self.now + seconds, []
        while (wake := self.core.next_wake(self.now)) is not None and wake <= end:
            self.now = wake
            for effect in self.do(events.TimePassed()):
                found.append(effect)
                ping = isinstance(effect, events.PublishControl) and isinstance(effect.control, wire.Ping)
                if ping and effect.node in names:
                    found += self.pong(effect.node)
        self.now = end
        return without_pings(found)

    def receive(self, topic: str, message: wire.Message | bytes, **options: Any) -> list[events.Effect]:
        payload = message if isinstance(message, bytes) else wire.encode(message)
        return self.do(events.MessageReceived(topic=f"edge/v1/{topic}", payload=payload, **options))

    def state(
        self, name: str, *bundles: wire.ServedBundle, epoch: int = 1, status: Any = "ready", **options: Any
    ) -> list[events.Effect]:
        served = () if status == "offline" else bundles or (BUNDLE,)
        return self.receive(f"node/{name}/state", wire.NodeState(epoch=epoch, status=status, bundles=served), **options)

    def pong(self, name: str, *, seq: int | None = None, after_s: float = 0.0, **fields: Any) -> list[events.Effect]:
        self.now += after_s
        number = self.seqs[name] if seq is None else seq
        return self.receive(
            f"node/{name}/report", wire.Pong(hub="hub", seq=number, hold_ms=0.0, **{"life": 1, **fields})
        )

    def node(self, name: str, *bundles: wire.ServedBundle, network_ms: float = 1.0) -> None:
        """A ready node with a measured distance."""
        self.state(name, *bundles)
        self.pong(name, after_s=network_ms / 1000)

    def ask(
        self, text: str = "Why?", *, device: str = "kitchen", receipt: int | None = None, **fields: Any
    ) -> list[events.Effect]:
        """A JSON question; `deadline_ms` and the like are fields of it, `expiry_s` and the like are not."""
        names = ("correlation", "response_topic", "expiry_s", "retained", "trace")
        options = {name: fields.pop(name) for name in names if name in fields}
        question = wire.Question(question=text, **fields)
        number = next(self.receipts) if receipt is None else receipt
        return self.receive(f"ask/{device}", question, receipt=number, **options)

    def accept(self, effects: list[events.Effect]) -> list[events.Effect]:
        """The broker accepts every QoS 1 publish of these."""
        found: list[events.Effect] = []
        for effect in effects:
            if isinstance(effect, events.PublishWork | events.PublishFailure):
                found += self.do(events.PublishAccepted(effect.ticket))
        return found

    def done(self, name: str, outcome: Any = "answered", **fields: Any) -> list[events.Effect]:
        values = {"hub": "hub", "device": "kitchen", "id": "q", "attempt": 1, "bundle": BUNDLE.bundle, **fields}
        if outcome == "answered":
            values = {"tokens": TOKENS, "timing_ms": TIMING, "life": 1, **values}
        return self.receive(f"node/{name}/report", wire.Done(outcome=outcome, **values))


def without_pings(effects: list[events.Effect]) -> list[events.Effect]:
    return [
        effect
        for effect in effects
        if not (isinstance(effect, events.PublishControl) and isinstance(effect.control, wire.Ping))
    ]


def works(effects: list[events.Effect]) -> list[tuple[str, int]]:
    """Node and attempt of each Work that is published."""
    return [(effect.node, effect.work.attempt) for effect in effects if isinstance(effect, events.PublishWork)]


def failures(effects: list[events.Effect]) -> list[str]:
    """The codes of the failures that are published."""
    return [effect.failure.error.code for effect in effects if isinstance(effect, events.PublishFailure)]


def acknowledged(effects: list[events.Effect]) -> list[int]:
    return [effect.receipt for effect in effects if isinstance(effect, events.AcknowledgeAsk)]


def cancels(effects: list[events.Effect]) -> list[tuple[str, int]]:
    return [
        (effect.node, effect.control.attempt)
        for effect in effects
        if isinstance(effect, events.PublishControl) and isinstance(effect.control, wire.Cancel)
    ]


def records(effects: list[events.Effect]) -> list[events.Record]:
    return [effect.record for effect in effects if isinstance(effect, events.StoreRecord)]


ANSWER_S = 0.1


def teach(hub: Driver, name: str, answers: int = 30, *, after_s: float = ANSWER_S, **fields: Any) -> None:
    """Let the one ready node answer questions, each after as long."""
    for number in range(answers):
        asked = hub.ask(id=f"{name}-{number}", device="teacher")
        assert [node for node, _ in works(asked)] == [name]
        hub.wait_ponging(after_s, name)
        hub.done(name, id=f"{name}-{number}", device="teacher", **fields)


def proven(*names: str, **options: Any) -> Driver:
    """Nodes whose delays are known from thirty answers each, the first one the nearest."""
    hub = Driver(**options)
    for place, name in enumerate(names):
        hub.node(name, network_ms=1.0 + 10.0 * place)
        teach(hub, name)
        hub.state(name, status="draining")
    for name in names:
        hub.state(name)
        hub.pong(name)
    return hub


def failure(effects: list[events.Effect]) -> wire.Problem:
    (found,) = (effect for effect in effects if isinstance(effect, events.PublishFailure))
    return found.failure.error


def two_nodes(**options: Any) -> Driver:
    """`a` is near, `b` is far."""
    hub = Driver(**options)
    hub.node("a", network_ms=1.0)
    hub.node("b", network_ms=60.0)
    return hub
