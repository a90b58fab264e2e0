"""The live hub on real brokers, with a node that answers at once."""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.service import AgentService
from hub import events, wire
from hub.ask import Asker
from hub.broker_url import BrokerUrl
from hub.errors import LinkError
from hub.fleet import Standing
from hub.handlers import Handlers
from hub.heritage import SESSION_S, session_of
from hub.loop import Loop
from hub.mqtt_link import Link
from hub.service import HubService

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from noop_node import BUNDLE, Noop

from edge_agent.runtime.generation import Generation, OneByOne

MANY = 300  # questions at once: more than any broker here keeps in flight


class Held(Noop):
    """Answers when it may, and keeps what it was asked."""

    served = msgspec.structs.replace(Noop.served, fixed_ms=1000.0)

    def __init__(self) -> None:
        self.may = threading.Event()
        self.asked: list[str | None] = []

    def answer(
        self, question: wire.Question, *, should_stop: Callable[[], bool], on_text: Callable[[str], None] | None = None
    ) -> Generation:
        self.asked.append(question.question)
        self.may.wait(20)
        return Generation(
            text="yes", token_ids=(1,), finish="stop", tokens=wire.Tokens(prompt=4, completion=1),
            prefill_ms=1000.0, decode_ms=0.0, compute_ms=1000.0,
        )  # fmt: skip


class Kept:
    """Records in a list."""

    def __init__(self) -> None:
        self.records: list[events.Record] = []
        self.notes: list[events.Note] = []

    def note(self, note: events.Note, wall_time_s: float) -> None:
        self.notes.append(note)

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
    eventually(lambda: hub.service._core.in_flight == 0 and hub.service._asks.is_settled)


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
        super().__init__()
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


def test_a_node_is_drained_and_taken_back_from_any_thread(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """Told without waiting; the fleet shows when it obeys, and then nothing new goes there."""
    hub, _, _ = start_fleet(broker_url, running, eventually)

    def standing() -> object:
        return hub.service.call(lambda core, now: getattr(core.fleet.get("n1"), "standing", None)).result(10)

    eventually(lambda: standing() == Standing.READY)
    hub.service.drain("n1", on=True)
    eventually(lambda: standing() == Standing.DRAINING)
    hub.service.drain("n1", on=False)
    eventually(lambda: standing() == Standing.READY)


def test_what_nodes_are_told_is_retained_and_heard(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """A hub that follows rollouts tells a node for good; it, and one that starts later, hear what was told."""
    heard: list[tuple[str, str, int]] = []

    def hears(hub: str) -> Callable[[str, bytes], None]:
        return lambda node, payload: heard.append((hub, node, wire.decode_desired(payload).epoch))

    first = running(HubService(broker_url, "first", None, alone=True, desired_heard=hears("first")))
    eventually(lambda: first.service.ready)
    desired = wire.Desired(epoch=7, rollout="r", bundle="b", version=1, replaces="m", manifest="0" * 64)
    first.service.publish_desired("n1", desired)
    eventually(lambda: ("first", "n1", 7) in heard)
    first.stop()
    later = running(HubService(broker_url, "later", None, alone=True, desired_heard=hears("later")))
    eventually(lambda: ("later", "n1", 7) in heard)
    assert later.service.call(lambda core, now: core.counters["ignored_desired"]).result(10) == 0


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


# --- several hubs ---------------------------------------------------------------------------------------


class Company:
    """Hubs that know each other, and nodes that answer when they may."""

    def __init__(self, url: str | BrokerUrl, hubs: str, nodes: int, running: Callable[[object], Any]) -> None:
        self.url, self.running = url, running
        self.kept = {name: Kept() for name in hubs}
        self.hubs = {name: running(HubService(url, name, kept)) for name, kept in self.kept.items()}
        self.held = [Held() for _ in range(nodes)]
        self.nodes = [
            running(AgentService(url, f"n{number}", {BUNDLE: OneByOne(held)}, drain_s=0.1))
            for number, held in enumerate(self.held)
        ]

    def core(self, name: str) -> Any:
        return self.hubs[name].service._core

    def is_complete(self) -> bool:
        """Every hub takes asks, sees the others and all nodes, and is settled."""
        cores = [self.core(name) for name in self.hubs]
        return all(
            hub.service._asks.is_open
            and core._placing.settled
            and len(core._peers._there) == len(cores) - 1
            and sum(node.standing == 0 for node in core.fleet.values()) == len(self.nodes)
            for hub, core in zip(self.hubs.values(), cores, strict=True)
        )

    def know(self, key: tuple[str, str]) -> bool:
        """Whether each hub has the question, or knows who has."""
        cores = [self.core(name) for name in self.hubs]
        return all(key in core._ledger.in_flight or core._peers.find(key) is not None for core in cores)

    def release(self) -> None:
        for held in self.held:
            held.may.set()

    def counted(self, counter: str) -> int:
        return sum(self.core(name).counters[counter] for name in self.hubs)


@pytest.mark.broker
def test_hubs_share_work_and_load(
    mosquitto: Any, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """Each hub takes its part, and sees what the others have just sent: no node gets more than its share.

    Repeats, which come to any hub, are recognised by all: nobody computes anything twice.
    """
    company = Company(mosquitto.url, "abc", 3, running)
    eventually(company.is_complete)
    with Asker(mosquitto.url, "kitchen") as asker:
        futures = []
        for number in range(9):
            futures.append(asker.submit(wire.Question(id=str(number), question=f"why {number}?")))
            eventually(lambda number=number: company.know(("kitchen", str(number))))
        assert [node.service._core.backlog(0.0).questions for node in company.nodes] == [3, 3, 3]
        assert [company.core(name).in_flight for name in "abc"] == [3, 3, 3]
        eventually(lambda: company.counted("duplicates") >= 9)  # each repeated at least once by now
        company.release()
        assert all(isinstance(future.result(20).reply, wire.Answer) for future in futures)
    asked = Counter(text for held in company.held for text in held.asked)
    assert asked == Counter(f"why {number}?" for number in range(9))
    eventually(lambda: sum(len(kept.records) for kept in company.kept.values()) == 9)
    records = [record for kept in company.kept.values() for record in kept.records]
    assert {record.id for record in records} == {str(number) for number in range(9)}
    eventually(lambda: not any(company.core(name)._peers._elsewhere for name in "abc"))


@pytest.mark.broker
@pytest.mark.parametrize("secret", [None, "s" * 64])
def test_hub_that_stops_leaves_its_questions_to_another(
    mosquitto: Any, running: Callable[[object], Any], eventually: Callable[..., None], secret: str | None
) -> None:
    """What it had in flight has an owner, and a record, at the heir; nothing is left of it at the broker.

    So it is among hubs that share a secret, too, by which nobody else can say the names of their sessions.
    """
    company = Company(BrokerUrl.parse(mosquitto.url, secret=secret), "ab", 1, running)
    eventually(company.is_complete)
    with Asker(mosquitto.url, "kitchen") as asker:
        futures = [asker.submit(wire.Question(id=str(number), question="why?")) for number in range(4)]
        eventually(lambda: all(company.know(("kitchen", str(number))) for number in range(4)))
        company.hubs["b"].stop()
        eventually(lambda: company.core("a").in_flight == 4)
        company.release()
        assert all(isinstance(future.result(20).reply, wire.Answer) for future in futures)
        eventually(lambda: len(company.kept["a"].records) == 4)
        assert company.kept["b"].records == []
        assert len(company.held[0].asked) == 4
        eventually(lambda: not company.core("a")._peers._gone)
        code = r"" if secret is None else r"-[0-9a-f]{16}"
        ids = [hub.service._asks.client_id for hub in company.hubs.values()]
        assert all(re.fullmatch(f"hub-{name}-asks{code}", each) for name, each in zip("ab", ids, strict=True))
        assert re.fullmatch(f"node-n0{code}", company.nodes[0].service._link.client_id)
        assert isinstance(asker.ask(wire.Question(question="and now?")).reply, wire.Answer)


@pytest.mark.broker
@pytest.mark.parametrize("following", ["h", "i"])
def test_last_hub_to_go_keeps_its_session(
    mosquitto: Any, running: Callable[[object], Any], eventually: Callable[..., None], following: str
) -> None:
    """What is asked while no hub runs is answered by the next one, of whatever name, also to clients that ask once."""
    hub, _, _ = start_fleet(mosquitto.url, running, eventually)
    hub.stop()
    loop, got = Loop(), []
    client = Link(
        BrokerUrl.parse(mosquitto.url), "plain", Handlers(received=got.append),
        subscriptions=[("edge/v1/answer/kitchen", 1)],
    )  # fmt: skip
    loop.add(client)
    while not client.is_open:
        loop.run_once(0.05)
    client.publish("edge/v1/ask/kitchen", b"why?", qos=1)
    loop.run_once(0.05)
    running(HubService(mosquitto.url, following, None))
    eventually(lambda: loop.run_once(0.05) or got)
    assert [message.payload for message in got] == [b"yes"]
    loop.close()


@pytest.mark.broker
def test_session_of_an_older_hub(
    mosquitto: Any, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """A session with a subscription that is not shared does not bring each ask twice."""
    loop = Loop()
    old = Link(
        BrokerUrl.parse(mosquitto.url), session_of("h"), Handlers(received=print),
        subscriptions=[(wire.Topic.all_of("ask"), 1)], session_expiry_s=SESSION_S, by_hand=True,
    )  # fmt: skip
    loop.add(old)
    while not old.is_open:
        loop.run_once(0.05)
    loop.close()
    hub, kept, _ = start_fleet(mosquitto.url, running, eventually)
    with Asker(mosquitto.url, "kitchen") as asker:
        for number in range(5):
            assert isinstance(asker.ask(wire.Question(question=f"why {number}?")).reply, wire.Answer)
    eventually(lambda: len(kept.records) == 5)
    assert hub.service._core.counters["duplicates"] == 0


def test_embedded_broker_belongs_to_one_hub(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """A hub that takes every ask of its broker keeps others away, which say why they end."""
    first = running(HubService(broker_url, "h", None, alone=True))
    eventually(lambda: first.service._asks.is_open)
    second = running(HubService(broker_url, "i", None))
    eventually(lambda: second.ended)
    assert isinstance(second.error, LinkError)
    assert "takes every question" in str(second.error)
    assert not first.ended
