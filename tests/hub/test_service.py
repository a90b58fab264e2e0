"""The live hub on real brokers, with a node that answers at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.service import AgentService
from hub import events, wire
from hub.ask import Asker
from hub.errors import LinkError
from hub.service import HubService

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from noop_node import BUNDLE, Noop

from edge_agent.runtime.generation import Generation, OneByOne

MANY = 300  # questions at once: more than any broker here keeps in flight


class Kept:
    """Records in a list."""

    def __init__(self) -> None:
        self.records: list[events.Record] = []

    def store(self, record: events.Record, wall_time_s: float) -> None:
        self.records.append(record)


def start_fleet(url: str, running: Callable[[object], Any], eventually: Callable[..., None]) -> tuple[Any, Kept, Any]:
    kept = Kept()
    hub = running(HubService(url, "h", kept))
    node = running(AgentService(url, "n1", {BUNDLE: OneByOne(Noop())}, queue_limit=MANY))
    eventually(lambda: hub.service._asks.is_open and node.service._link.is_open)
    return hub, kept, node


def test_question_is_routed_and_recorded(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """A question reaches the node, its answer the asker, and its row the records, with the decision."""
    _, kept, _ = start_fleet(broker_url, running, eventually)
    with Asker(broker_url, "kitchen") as asker:
        reply = asker.ask(wire.Question(question="why?")).reply
    assert isinstance(reply, wire.Answer)
    eventually(lambda: kept.records)
    record = kept.records[0]
    assert (record.outcome, record.node, record.device, record.id) == ("answered", "n1", "kitchen", reply.id)
    assert record.decisions[0].chosen is not None
    assert record.total_ms > 0


def test_every_ask_is_acknowledged(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """Far more questions than a broker keeps in flight are all answered: none is held unacknowledged."""
    hub, _, _ = start_fleet(broker_url, running, eventually)
    with Asker(broker_url, "kitchen") as asker:
        futures = [asker.submit(wire.Question(question=f"why {number}?")) for number in range(MANY)]
        replies = [future.result(30).reply for future in futures]
    assert [reply for reply in replies if not isinstance(reply, wire.Answer)] == []
    eventually(lambda: hub.service._core.in_flight == 0 and not hub.service._asks._unacknowledged)


def test_failures_are_typed(broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]) -> None:
    """What no node can do is failed by code, at once."""
    start_fleet(broker_url, running, eventually)
    with Asker(broker_url, "kitchen") as asker:
        for question, code in (
            (wire.Question(question="?", model="other"), "unsupported"),
            (wire.Question(question="x" * 200_000), "too_large"),
        ):
            outcome = asker.ask(question)
            assert isinstance(outcome.reply, wire.Failure)
            assert (outcome.reply.error.code, outcome.own_timer) == (code, False)


def test_second_hub_of_a_name_takes_over(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """The hub that started last keeps the name; the first ends and says why."""
    first, _, _ = start_fleet(broker_url, running, eventually)
    running(HubService(broker_url, "h", None))
    eventually(lambda: first.ended, limit_s=30)
    assert isinstance(first.error, LinkError)
    with Asker(broker_url, "kitchen") as asker:
        assert isinstance(asker.ask(wire.Question(question="why?")).reply, wire.Answer)


class Holding(Noop):
    """Answers until it hangs."""

    def __init__(self) -> None:
        self.hangs = False
        self.hung = threading.Event()
        self.end = threading.Event()

    def answer(self, question: wire.Question, **given: Any) -> Generation:
        if self.hangs:
            self.hung.set()
            self.end.wait(60)
        return super().answer(question, **given)


def test_node_that_hangs(broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]) -> None:
    """A node that answers pings and no questions keeps none: they are answered elsewhere, long before the deadline."""
    kept, held = Kept(), Holding()
    hub = running(HubService(broker_url, "h", kept))
    running(AgentService(broker_url, "n1", {BUNDLE: OneByOne(held)}))
    eventually(lambda: hub.service._asks.is_open)
    with Asker(broker_url, "kitchen") as asker:
        for number in range(10):
            assert isinstance(asker.ask(wire.Question(question=f"before {number}?")).reply, wire.Answer)
        held.hangs = True
        stuck = asker.submit(wire.Question(question="stuck?"))
        assert held.hung.wait(20)
        running(AgentService(broker_url, "n2", {BUNDLE: OneByOne(Noop())}))
        reply = stuck.result(25).reply
        held.end.set()
    assert isinstance(reply, wire.Answer)
    assert (reply.node, reply.attempt) == ("n2", 2)
    eventually(lambda: len(kept.records) == 11)
    assert [decision.cause for decision in kept.records[-1].decisions] == ["", "silence"]


@pytest.mark.broker
def test_broker_restart(mosquitto: Any, running: Callable[[object], Any], eventually: Callable[..., None]) -> None:
    """When the broker is killed and comes back, hub and node come back by themselves."""
    start_fleet(mosquitto.url, running, eventually)
    with Asker(mosquitto.url, "kitchen") as asker:
        assert isinstance(asker.ask(wire.Question(question="before?")).reply, wire.Answer)
        mosquitto.stop(kill=True)
        during = asker.submit(wire.Question(question="during?"))
        mosquitto.start()
        assert isinstance(during.result(30).reply, wire.Answer)


def test_a_cancel_cannot_overtake_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must arrive in order goes at the same QoS, so that it waits in the same queue; a ping may get lost."""
    service = HubService("mqtt://127.0.0.1:1", "h", None)
    published: list[tuple[str, int]] = []

    def publish(topic: str, payload: bytes, *, qos: int, **options: object) -> int:
        published.append((topic.rsplit("/", 1)[1], qos))
        return len(published)

    monkeypatch.setattr(service._link, "publish", publish)
    question = wire.Question(id="1", question="why?")
    work = wire.Work(
        hub="h", device="d", question=question, attempt=1, budget_ms=9.0, bundle="b", reply_to="edge/v1/answer/d"
    )
    service._do(events.PublishWork(node="n", work=work, ticket=1))
    service._do(events.PublishControl(node="n", control=wire.Cancel(device="d", id="1", attempt=1)))
    service._do(events.PublishControl(node="n", control=wire.Ping(hub="h", seq=1)))
    assert published == [("work", 1), ("control", 1), ("control", 0)]
