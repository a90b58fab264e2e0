"""A node on a real broker, played to by a scripted hub: state, work, control, and nothing else."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.runtime.generation import Generation, OneByOne
from edge_agent.service import AgentService, Own
from edge_agent.store import RETRY_S
from hub import wire
from hub.broker_url import BrokerUrl
from hub.errors import LinkError, WireError
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link

SERVED = wire.ServedBundle(
    bundle="b", model="m", task="text-generation", context=64,
    fixed_ms=1, prefill_ms_per_token=1, decode_ms_per_token=1,
)  # fmt: skip


class Echo:
    """Answers with the question, once the gate is open."""

    served = SERVED

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.computed = 0

    def tend(self) -> None:
        """It costs nothing, ever."""

    def answer(
        self, question: wire.Question, *, should_stop: Callable[[], bool], on_text: Callable[[str], None] | None = None
    ) -> Generation:
        self.computed += 1
        while not self.gate.wait(0.005) and not should_stop():
            pass
        return Generation(
            text=question.turns()[0],
            token_ids=(),
            finish="cancelled" if should_stop() else "stop",
            tokens=wire.Tokens(prompt=1, completion=1),
            prefill_ms=0.0,
            decode_ms=0.0,
            compute_ms=0.0,
        )


class Watcher:
    """Plays the hub: keeps everything that is published, publishes what the test says."""

    def __init__(self, url: str) -> None:
        self.states: list[wire.NodeState] = []
        self.reports: list[wire.Report] = []
        self.answers: list[Received] = []
        self._stopping = False
        self._loop = Loop()
        self.link = Link(
            BrokerUrl.parse(url),
            "watcher",
            Handlers(received=self._received),
            subscriptions=[(f"edge/v1/{topic}", 1) for topic in ("node/+/state", "node/+/report", "answer/#")],
        )
        self._loop.add(self.link)

    def run(self) -> None:
        while not self._stopping:
            self._loop.run_once(0.1)
        self._loop.close()

    def stop(self) -> None:
        self._stopping = True

    def say(self, topic: str, payload: bytes) -> None:
        self._loop.call_soon(lambda: self.link.publish(f"edge/v1/node/n/{topic}", payload, qos=1))

    def hub_says(self, hub: str, status: Any, epoch: int = 1, network_ms: float = 1.0) -> None:
        offer = wire.Offer(
            task="text-generation", model="m", node="far", bundle="b", context=64, network_ms=network_ms,
            wait_ms=1e6, fixed_ms=1.0, prefill_ms_per_token=1.0, decode_ms_per_token=1.0,
        )  # fmt: skip
        state = wire.HubState(epoch=epoch, status=status, offers=(offer,))
        topic = str(wire.Topic("hub_state", hub))
        self._loop.call_soon(lambda: self.link.publish(topic, wire.encode(state), qos=1, retain=True))

    def dones(self) -> list[tuple[str, str]]:
        return [(report.id, report.outcome) for report in self.reports if isinstance(report, wire.Done)]

    def _received(self, message: Received) -> None:
        with contextlib.suppress(WireError):  # a test may publish garbage
            if message.topic.endswith("/state"):
                self.states.append(wire.decode_node_state(message.payload))
            elif message.topic.endswith("/report"):
                self.reports.append(wire.decode_report(message.payload))
            else:
                self.answers.append(message)


def work(question_id: str = "1", **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "hub": "h",
        "device": "kitchen",
        "question": wire.Question(id=question_id, question="why?"),
        "attempt": 1,
        "budget_ms": 20_000.0,
        "bundle": "b",
        "reply_to": "edge/v1/answer/kitchen",
        "correlation": b"\x01",
    }
    return wire.encode(wire.Work(**{**fields, **changes}))


Scene = tuple[Watcher, Any, Echo]


@pytest.fixture
def scene(broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]) -> Iterator[Scene]:
    watcher = Watcher(broker_url)
    running(watcher)
    eventually(lambda: watcher.link.is_open)
    echo = Echo()
    agent = running(AgentService(broker_url, "n", {"b": OneByOne(echo)}))
    eventually(lambda: watcher.states)
    yield watcher, agent, echo
    echo.gate.set()


def test_state_then_goodbye(scene: Scene, eventually: Callable[..., None]) -> None:
    """A node says what it serves when it comes, and that it leaves when it goes."""
    watcher, agent, _ = scene
    assert watcher.states[-1].status == "ready"
    assert watcher.states[-1].bundles == (SERVED,)
    agent.stop()
    eventually(lambda: watcher.states[-1].status == "offline")


@pytest.mark.parametrize("plain", [False, True])
def test_answer_reaches_the_device(scene: Scene, eventually: Callable[..., None], plain: bool) -> None:
    """The answer goes to the device with its Correlation Data, as JSON or bare text, and Done to the hub."""
    watcher, _, _ = scene
    watcher.say("work", work(plain=plain))
    eventually(lambda: watcher.answers and watcher.dones())
    message = watcher.answers[0]
    assert (message.topic, message.correlation) == ("edge/v1/answer/kitchen", b"\x01")
    if plain:
        assert message.payload == b"why?"
    else:
        reply = wire.decode_reply(message.payload)
        assert isinstance(reply, wire.Answer)
        assert (reply.id, reply.text, reply.node) == ("1", "why?", "n")
    assert watcher.dones() == [("1", "answered")]


def test_ping_is_answered_while_computing(scene: Scene, eventually: Callable[..., None]) -> None:
    """Pongs come at once, also when the worker is busy, and tell the backlog."""
    watcher, _, echo = scene
    echo.gate.clear()
    watcher.say("work", work())
    watcher.say("control", wire.encode(wire.Ping(hub="h", seq=5)))
    eventually(lambda: watcher.reports)
    pong = watcher.reports[0]
    assert isinstance(pong, wire.Pong)
    assert (pong.hub, pong.seq, pong.backlog.questions) == ("h", 5, 1)


def test_cancel_stops_the_answer(scene: Scene, eventually: Callable[..., None]) -> None:
    """Cancelled work ends as cancelled; the device hears nothing of it."""
    watcher, _, echo = scene
    echo.gate.clear()
    watcher.say("work", work())
    eventually(lambda: echo.computed)
    watcher.say("control", wire.encode(wire.Cancel(device="kitchen", id="1", attempt=1)))
    eventually(watcher.dones)
    assert watcher.dones() == [("1", "cancelled")]
    assert watcher.answers == []


def test_repeats_are_computed_once(scene: Scene, eventually: Callable[..., None]) -> None:
    """The same work twice is one computation and the same answer twice."""
    watcher, _, echo = scene
    watcher.say("work", work())
    eventually(lambda: len(watcher.dones()) == 1)
    watcher.say("work", work())
    eventually(lambda: len(watcher.dones()) == 2)
    assert echo.computed == 1
    assert watcher.answers[0].payload == watcher.answers[1].payload


@pytest.mark.parametrize("topic", ["work", "control", "state"])
@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\x00", b"[]", b'{"epoch": "x"}', b'{"x":' + b"[" * 50_000, b"x" * 2_000_000],
    ids=["empty", "bytes", "list", "wrong type", "deep", "large"],
)
def test_garbage_changes_nothing(scene: Scene, eventually: Callable[..., None], topic: str, payload: bytes) -> None:
    """Whatever comes on a node's topics, it goes on answering as the same node."""
    watcher, agent, _ = scene
    watcher.say(topic, payload)
    watcher.say("work", work("after"))
    eventually(lambda: ("after", "answered") in watcher.dones())
    assert watcher.dones() == [("after", "answered")]
    assert agent.service.dropped == (0 if topic == "state" and not payload else 1)


def test_overwritten_state_is_put_right(scene: Scene, eventually: Callable[..., None]) -> None:
    """Somebody's `offline` under our name is answered with the truth and a higher epoch."""
    watcher, _, _ = scene
    epoch = watcher.states[-1].epoch
    lie = wire.encode(wire.NodeState(epoch=epoch, status="offline"))
    watcher._loop.call_soon(lambda: watcher.link.publish("edge/v1/node/n/state", lie, qos=1, retain=True))
    eventually(lambda: watcher.states[-1].epoch > epoch)
    assert watcher.states[-1].status == "ready"


def test_namesake_takes_over(
    scene: Scene, broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """The node that started last keeps the name; the other one ends and says why."""
    watcher, first, _ = scene
    second = running(AgentService(broker_url, "n", {"b": OneByOne(Echo())}))
    eventually(lambda: first.ended, limit_s=15)
    assert isinstance(first.error, LinkError)
    assert "took over" in str(first.error)
    eventually(lambda: watcher.states[-1].status == "ready", limit_s=15)
    assert not second.ended


def test_records_wait_for_no_hub_that_is_gone(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None], tmp_path: Path
) -> None:
    """They go to one of the hubs, once, whatever others say meanwhile; where it dies, the next one gets them."""
    watcher = Watcher(broker_url)
    running(watcher)
    eventually(lambda: watcher.link.is_open)
    agent = running(
        AgentService(broker_url, "n", {"b": OneByOne(Echo())}, own=Own(records=tmp_path / "records.sqlite"))
    ).service
    for hub in ("amy", "zoe"):
        watcher.hub_says(hub, "ready")
    eventually(lambda: len(agent._own.choice._hubs) == 2)

    def sent() -> list[tuple[str, int]]:
        return [(each.hub, each.seq) for each in watcher.reports if isinstance(each, wire.OwnRecords)]

    told: list[Any] = []
    agent.ask(wire.Question(question="why?"), "b", told.append)
    eventually(sent)
    started = time.monotonic()
    for number in range(10):
        watcher.hub_says("zoe", "ready", network_ms=2.0 + number)
    eventually(lambda: any(offer.network_ms == 11 for offer in agent.offers))
    watcher.hub_says("amy", "offline")
    eventually(lambda: sent()[-1] == ("zoe", 1))
    assert sent()[:-1].count(("amy", 1)) <= 1 + (time.monotonic() - started) // RETRY_S


class Deployments:
    """Hears what a deployer would."""

    def __init__(self) -> None:
        self.heard: list[wire.Desired] = []
        self.ended: list[tuple[str, bool]] = []

    def desired(self, desired: wire.Desired) -> None:
        self.heard.append(desired)

    def question_ended(self, bundle: str, failed: bool, predicted_ms: float, actual_ms: float, beside: float) -> None:
        self.ended.append((bundle, failed))


class Better(Echo):
    served = msgspec.structs.replace(SERVED, bundle="better", fixed_ms=7)


def test_a_bundle_is_replaced_while_the_node_answers(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """What runs is answered by the old one, which closes then; what hubs desire, and how questions end, is told."""
    watcher, deployments, echo = Watcher(broker_url), Deployments(), Echo()
    running(watcher)
    eventually(lambda: watcher.link.is_open)
    agent = AgentService(broker_url, "n", {"b": OneByOne(echo)})
    agent.deploy_with(deployments)
    running(agent)
    eventually(lambda: watcher.states)
    assert watcher.states[-1].deploys
    desired = wire.Desired(epoch=1, rollout="r", bundle="better", version=2, replaces="m", manifest="0" * 64)
    watcher.say("desired", wire.encode(desired))
    watcher.say("desired", b"{")
    watcher.say("desired", b"")
    eventually(lambda: deployments.heard == [desired] and agent.dropped == 1)
    echo.gate.clear()
    watcher.say("work", work("1"))
    eventually(lambda: echo.computed == 1)
    closed = threading.Event()
    agent.offer(OneByOne(Better()), instead_of="b")
    agent.let_go("b", closed.set)
    agent.deployed(wire.Deployment(epoch=1, rollout="r", bundle="better", version=2, phase="trial"))
    eventually(
        lambda: [one.bundle for one in watcher.states[-1].bundles] == ["better"] and watcher.states[-1].deployment
    )
    assert not closed.is_set()
    watcher.say("work", work("2", bundle="better", device="hall", reply_to="edge/v1/answer/hall"))
    echo.gate.set()
    eventually(lambda: len(watcher.answers) == 2 and closed.is_set())
    assert sorted(watcher.dones()) == [("1", "answered"), ("2", "answered")]
    assert sorted(deployments.ended) == [("b", False), ("better", False)]


def test_what_a_hub_sends_before_it_has_heard_of_the_change_is_answered(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """Also where the bundle goes at once, because it was worse: a node alone in its fleet has nobody else to ask."""
    watcher = Watcher(broker_url)
    running(watcher)
    eventually(lambda: watcher.link.is_open)
    agent = AgentService(broker_url, "n", {"b": OneByOne(Echo())})
    running(agent)
    eventually(lambda: watcher.states)
    closed = threading.Event()
    agent.offer(OneByOne(Better()), instead_of="b")
    agent.let_go("b", closed.set)
    eventually(lambda: [one.bundle for one in watcher.states[-1].bundles] == ["better"])
    watcher.say("work", work("1"))
    eventually(lambda: watcher.dones() == [("1", "answered")])
    eventually(closed.is_set)


def test_a_bundle_that_fails_is_told_to_whoever_deployed_it(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """Questions that nobody could answer do not count against it."""

    class Broken(Echo):
        def answer(self, *_: Any, **__: Any) -> Generation:
            raise ZeroDivisionError

    watcher, deployments = Watcher(broker_url), Deployments()
    running(watcher)
    eventually(lambda: watcher.link.is_open)
    agent = AgentService(broker_url, "n", {"b": OneByOne(Broken())})
    agent.deploy_with(deployments)
    running(agent)
    eventually(lambda: watcher.states)
    watcher.say("work", work("1"))
    watcher.say("work", work("2", bundle="none"))
    eventually(lambda: len(watcher.dones()) == 2)
    assert deployments.ended == [("b", True)]
