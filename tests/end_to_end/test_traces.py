"""One trace from the asker through the hub to the node, over real brokers; and nothing of what hostile clients send."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.service import AgentService
from hub import wire
from hub.ask import Asker
from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link
from hub.service import HubService
from tests.hub.spans import Kept, id_of, kept_spans, parent_of, trace_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from noop_node import BUNDLE, Noop

from edge_agent.runtime.generation import Generation, OneByOne

HOSTILE = (
    [("traceparent", "00-" + "z" * 32 + "-00f067aa0ba902b7-01")],
    [("traceparent", "x" * 60_000)],
    [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")] * 2,
    [("tracestate", "a=b")],
)


class Held(Noop):
    """Answers when it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.asked = 0

    def answer(self, question: wire.Question, **given: Any) -> Generation:
        self.asked += 1
        self.may.wait(20)
        return super().answer(question, **given)


@pytest.fixture
def kept() -> Iterator[Kept]:
    with kept_spans() as kept:
        yield kept


@pytest.fixture
def held(broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]) -> Held:
    """A hub and one node, which answers when it may."""
    held = Held()
    hub, node = HubService(broker_url, "h", None), AgentService(broker_url, "n1", {BUNDLE: OneByOne(held)})
    running(hub)
    running(node)
    eventually(lambda: hub.ready and node._link.is_open)
    return held


def test_one_trace_from_asker_to_node(broker_url: str, held: Held, kept: Kept, eventually: Callable[..., None]) -> None:
    """Each span below the one that led to it, and within it in time, as far as one machine's clock can tell."""
    held.may.set()
    with Asker(broker_url, "kitchen") as asker:
        reply = asker.ask(wire.Question(question="secret words")).reply
    assert isinstance(reply, wire.Answer)
    eventually(lambda: len(kept.all()) == 3)
    ask, route, chat = (kept.one(name) for name in ("edge.ask", "edge.route", "chat noop"))
    assert {trace_of(span) for span in (ask, route, chat)} == {trace_of(ask)}
    assert [parent_of(span) for span in (ask, route, chat)] == [None, id_of(ask), id_of(route)]
    assert (route.attributes or {})["edge.node"] == (chat.attributes or {})["edge.node"] == "n1"
    assert (ask.start_time or 0) <= (route.start_time or 0) <= (chat.start_time or 0)
    assert [event.name for event in route.events] == ["edge.decision"]
    assert not any("secret" in span.to_json() for span in (ask, route, chat))


def test_a_repeated_question_makes_no_second_trace(
    broker_url: str, held: Held, kept: Kept, eventually: Callable[..., None]
) -> None:
    """It is asked again while it is under way, and again when it has been answered."""
    with Asker(broker_url, "kitchen") as asker:
        future = asker.submit(wire.Question(id="q", question="why?"))
        eventually(lambda: held.asked == 1)
        pending = asker._pending["q"]
        eventually(lambda: pending.repeats > 1, limit_s=20)  # after a silence
        held.may.set()
        assert isinstance(future.result(20).reply, wire.Answer)
    eventually(lambda: len(kept.all()) == 3)
    assert (kept.one("edge.ask").attributes or {})["edge.repeats"] >= 1
    with Client(broker_url) as client:  # the same question of the same device, in no trace
        client.ask(b'{"id":"q","question":"why?"}', [])
        eventually(lambda: client.heard)
    assert held.asked == 1
    assert len(kept.all()) == 3


def test_hostile_traces_are_ignored(broker_url: str, held: Held, kept: Kept, eventually: Callable[..., None]) -> None:
    """The question is answered, in a trace that begins at the hub."""
    held.may.set()
    with Client(broker_url) as client:
        for number, properties in enumerate(HOSTILE):
            client.ask(b'{"id":"%d","question":"why?"}' % number, properties)
        eventually(lambda: len(client.heard) == len(HOSTILE))
    eventually(lambda: len(kept.named("edge.route")) == len(HOSTILE) == len(kept.named("chat noop")))
    assert [parent_of(span) for span in kept.named("edge.route")] == [None] * len(HOSTILE)
    assert len({trace_of(span) for span in kept.all()}) == len(HOSTILE)


def test_a_hub_that_does_not_trace_passes_the_trace_on(
    broker_url: str, held: Held, eventually: Callable[..., None]
) -> None:
    """The node gets it from the asker, checked and nothing else."""
    held.may.set()
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with Client(broker_url, str(wire.Topic("work", "n1"))) as spy:
        spy.ask(b'{"id":"q","question":"why?"}', [("traceparent", parent), ("tracestate", "rojo=1"), ("x", "y")])
        eventually(lambda: spy.heard)
        assert spy.heard[0].user_properties == (("traceparent", parent), ("tracestate", "rojo=1"))


class Client:
    """A plain client of the device `kitchen`, which hears one topic: by default its answers."""

    def __init__(self, broker: str, topic: str = str(wire.Topic("answer", "kitchen"))) -> None:
        self.heard: list[Received] = []
        self._loop = Loop()
        self._hears = threading.Event()
        handlers = Handlers(received=self.heard.append, opened=self._hears.set)
        self._link = Link(BrokerUrl.parse(broker), "client", handlers, subscriptions=[(topic, 1)])
        self._loop.add(self._link)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def ask(self, payload: bytes, properties: list[tuple[str, str]]) -> None:
        topic = str(wire.Topic("ask", "kitchen"))
        self._loop.call_soon(lambda: self._link.publish(topic, payload, qos=1, user_properties=properties) and None)

    def __enter__(self) -> Client:
        self._thread.start()
        assert self._hears.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._loop.call_soon(lambda: None)
        self._thread.join(10)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._loop.run_once(0.1)
        self._loop.close()
