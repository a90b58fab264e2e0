"""Hostile input on every topic of a running fleet: refused as designed, and nothing else changes."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from benchmarks.faults.garbage import Wild, messages
from benchmarks.faults.standing import Hub, Node, is_malformed
from hub import wire
from hub.broker_url import BrokerUrl
from hub.errors import WireError
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link
from tests.end_to_end.seed import SEED

TOPICS = [
    "ask/kitchen", "ask/a", "answer/kitchen", "node/n1/state", "node/ghost/state", "node/n1/work", "node/n1/control",
    "node/n1/report", "node/ghost/report", "hub/hub/state", "hub/ghost/state", "ask/with/more/levels",
]  # fmt: skip


def garbage(seed: int) -> list[bytes]:
    """Random bytes, wrong types, deep nesting, huge numbers, ten megabytes."""
    draw = random.Random(seed)
    fixed = [
        b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe\x00", b'{"id": 7, "question": null}',
        b'{"type": "ping"}', b'{"type": "done", "hub": 1}', b'{"type": "cancel", "id": []}',
        b'{"epoch": -1, "status": "ready"}', b'{"epoch": 1e400, "status": "ready"}',
        b'{"epoch": 18446744073709551616, "status": "ready"}', b'{"epoch": 1, "status": "on fire"}',
        b'{"question": "x", "deadline_ms": -5}', b'{"question": "x", "max_tokens": "many"}',
        b'{"type": "pong", "hub": "hub", "seq": 99999999, "hold_ms": 1e300}',
        b'{"type": "done", "hub": "hub", "device": "a", "id": "0", "attempt": 1, "bundle": "b", "outcome": "answered"}',
        b'{"question": ' + b"[" * 200_000, b'{"x":' * 100_000, b"\xc3" * 10_000_000,
    ]  # fmt: skip
    return fixed + [draw.randbytes(draw.randrange(1, 300)) for _ in range(30)]


class Attacker:
    """Publishes everything to every topic, and keeps what comes back on one answer topic."""

    def __init__(self, url: str) -> None:
        self.replies: list[Received] = []
        self.loop = Loop()
        self.accepted = 0
        handlers = Handlers(received=self.replies.append, accepted=self._count)
        self.link = Link(BrokerUrl.parse(url), "attacker", handlers, subscriptions=[("edge/v1/answer/a", 1)])
        self.loop.add(self.link)
        self.until(lambda: self.link.is_open)

    def _count(self, ticket: int) -> None:
        self.accepted += 1

    def until(self, condition: Callable[[], object]) -> None:
        for _ in range(3000):
            if condition():
                return
            self.loop.run_once(0.01)
        raise AssertionError("did not happen in time")

    def throw(self, wild: list[Wild]) -> None:
        """Publish these as they are."""
        for one in wild:
            self.link.publish(
                one.topic, one.payload, qos=1, retain=one.retained, correlation=one.correlation,
                response_topic=one.response_topic, expiry_s=one.expiry_s,
            )  # fmt: skip
        self.until(lambda: self.accepted == len(wild))

    def attack(self) -> int:
        sent = 0
        for topic in TOPICS:
            for payload in garbage(len(topic)):
                self.link.publish(f"edge/v1/{topic}", payload, qos=1, retain=len(payload) < 100 and "state" in topic)
                sent += 1
        self.until(lambda: self.accepted == sent)
        return sent


@pytest.mark.slow
def test_fleet_stands(processes: Any, broker_url: str) -> None:
    """After garbage on every topic the same processes answer, and the asker of garbage got its typed failures."""
    processes.hub(broker_url)
    processes.noop("n1", broker_url)
    processes.wait_for(broker_url, "n1")
    before = {name: process.pid for name, process in processes._started.items()}
    attacker = Attacker(broker_url)
    answered = threading.Event()
    attacker.attack()
    document = processes.ask("Still there?", broker_url)
    answered.set()
    assert document["text"] == "yes"
    attacker.until(lambda: len(attacker.replies) >= 20)
    attacker.loop.close()
    codes = {json.loads(reply.payload)["error"]["code"] for reply in attacker.replies if reply.payload[:1] == b"{"}
    assert {"invalid"} <= codes <= {"invalid", "too_large", "unsupported", "deadline"}
    marks = {dict(reply.user_properties).get(wire.ERROR_PROPERTY) for reply in attacker.replies}
    assert "too_large" in marks | codes
    assert {name: process.pid for name, process in processes._started.items()} == before
    assert all(process.poll() is None for process in processes._started.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, SEED])
def test_nothing_but_counters_changes(seed: int) -> None:
    """Of 5,000 messages on every topic the malformed leave no trace in a hub or node; a question is answered after."""
    hub = Hub()
    tally = hub.suffer(messages(seed, 5_000))
    assert tally.malformed > 4_000
    assert tally.odd > 200
    assert hub.answers()
    assert Node().suffer(messages(seed, 5_000)).malformed > 4_000


def test_a_change_is_seen() -> None:
    """The comparison of the test above sees one number less in what a hub knows, and no counter more."""
    hub = Hub()
    hub.core.counters["asks"] += 1
    hub._drop([Wild(topic="edge/v1/ask/a", payload=b"{")])
    original = hub.core._received

    def forgetful(message: Any, now: float) -> None:
        original(message, now)
        hub.core._lessons._lengths.learn("a", "text-generation", 4)

    hub.core._received = forgetful  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="one of these changed the hub"):
        hub._drop([Wild(topic="edge/v1/ask/a", payload=b"{")])


def _is_nobodys(message: Wild) -> bool:
    """Whether neither hub nor node may take this, and MQTT lets a client send it."""
    topic = wire.Topic.parse(message.topic)
    if not message.topic or (message.response_topic is not None and not message.response_topic.strip("#+\0")):
        return False
    if "\0" in (message.response_topic or ""):
        return False
    decode = {"work": wire.decode_work, "control": wire.decode_control, "hub_state": wire.decode_hub_presence}
    if topic is not None and topic.kind in decode:
        try:
            decode[topic.kind](message.payload)  # type: ignore[operator]
        except WireError:
            return True
        return False
    return is_malformed(message)


@pytest.mark.slow
def test_a_running_fleet_drops_it_all(processes: Any, broker_url: str) -> None:
    """Hundreds of malformed messages through a broker: the fleet is as it was, and no bigger."""
    processes.hub(broker_url)
    processes.noop("n1", broker_url)
    processes.wait_for(broker_url, "n1")
    assert processes.ask("Before?", broker_url)["text"] == "yes"
    before = {name: psutil.Process(one.pid).memory_info().rss for name, one in processes._started.items()}
    attacker = Attacker(broker_url)
    attacker.throw([message for message in messages(SEED, 700) if _is_nobodys(message)])
    attacker.loop.close()
    assert processes.ask("Still there?", broker_url)["text"] == "yes", f"seed {SEED}"
    processes.wait_for(broker_url, "n1")  # it shows its state again where garbage had taken its place
    nodes = json.loads(processes.run("edge-hub", "nodes", "--broker", broker_url, "--json").stdout)
    assert [(node["node"], node["status"]) for node in nodes] == [("n1", "ready")], f"seed {SEED}"
    for name, one in processes._started.items():
        assert one.poll() is None, f"{name} ended, seed {SEED}: {processes.log(name)[-2000:]}"
        assert psutil.Process(one.pid).memory_info().rss < before[name] + 50_000_000, f"{name}, seed {SEED}"
