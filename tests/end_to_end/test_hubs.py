"""Three hubs on one Mosquitto, of which one is killed, one stopped, or one dies together with the broker."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hub import wire
from hub.ask import Asker
from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link

pytestmark = pytest.mark.broker
HUBS = ("one", "two", "three")  # `one` is everybody's heir, `three` its next
NODES = 4
ANSWER_MS = 150
ASKED, PLAIN = 60, 40  # by askers that repeat, and by a client that asks once


class PlainClient:
    """A bare MQTT 5 client of device `library`: asks in plain text, once, and tells answers apart by their tag."""

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self.hubs: dict[str, str] = {}
        self.loop = Loop()
        topics = [("edge/v1/answer/library", 1), (wire.Topic.all_of("hub_state"), 1)]
        self.link = Link(BrokerUrl.parse(url), "plain", Handlers(received=self._received), subscriptions=topics)
        self.loop.add(self.link)
        self.until(lambda: self.link.is_open)

    def _received(self, message: Received) -> None:
        topic = wire.Topic.parse(message.topic)
        if topic is not None and topic.kind == "hub_state":
            self.hubs.pop(topic.name, None)
            if message.payload:
                self.hubs[topic.name] = wire.decode_hub_state(message.payload).status
        elif message.correlation is not None and message.payload == b"Why?":
            self.answers[message.correlation.decode()] += 1

    def ask(self, *tags: str) -> None:
        for tag in tags:
            self.link.publish("edge/v1/ask/library", b"Why?", qos=1, correlation=tag.encode())
        self.link.flush()

    def until(self, condition: Callable[[], object], limit_s: float = 40.0) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, "did not happen in time"
            self.loop.run_once(0.05)


@pytest.fixture
def fleet(processes: Any, mosquitto: Any, eventually: Callable[..., None]) -> Iterator[tuple[Any, str, PlainClient]]:
    """Hubs that know of each other, and nodes."""
    for name in HUBS:
        processes.hub(mosquitto.url, name=name)
    for number in range(NODES):
        command = ("python", "benchmarks/noop_node.py", "--broker", mosquitto.url, "--node", f"n{number}")
        processes.start(f"n{number}", *command, "--answer-ms", str(ANSWER_MS), "--parallel", "1")
    for name in HUBS:
        eventually(lambda name=name: "is not the only one" in processes.log(name), limit_s=30)
        eventually(lambda name=name: "takes questions" in processes.log(name), limit_s=30)
    client = PlainClient(mosquitto.url)
    client.until(lambda: set(client.hubs.items()) == {(name, "ready") for name in HUBS})
    with Asker(mosquitto.url, "warm") as asker:  # until every node takes part
        seen: set[str] = set()
        while len(seen) < NODES:
            futures = [asker.submit(wire.Question(question="Why?")) for _ in range(2 * NODES)]
            seen |= {answer.node for answer in map(answered, futures)}
    yield processes, mosquitto.url, client
    client.loop.close()


def answered(future: Any) -> wire.Answer:
    reply = future.result(40).reply
    assert isinstance(reply, wire.Answer), reply
    return reply


def sent_by(processes: Any, hub: str, device: str) -> int:
    """Questions of `device` that a hub has sent to a node first."""
    return len(re.findall(rf" question {device}/\S+ attempt 1 -> ", processes.log(hub)))


def test_one_is_killed_and_one_is_stopped(fleet: tuple[Any, str, PlainClient], eventually: Callable[..., None]) -> None:
    """Every question gets its answer, whether it is asked again or not, and the askers see each answer once.

    Whom the broker still keeps asks for is the last hub's business: it answers them, and nothing is left of the others.
    """
    processes, url, client = fleet
    tags = [f"tag-{number}" for number in range(PLAIN)]
    with Asker(url, "kitchen") as asker:
        futures = [asker.submit(wire.Question(question="Why?")) for _ in range(ASKED)]
        client.ask(*tags[: PLAIN // 2])
        eventually(lambda: all(sent_by(processes, name, "kitchen") > 0 for name in HUBS), limit_s=20)
        processes.kill("one")
        client.ask(*tags[PLAIN // 2 : -4])
        futures += [asker.submit(wire.Question(question="Why?")) for _ in range(ASKED // 2)]
        client.until(lambda: client.hubs.get("one") != "ready")
        assert processes.end("three") == 0
        client.ask(*tags[-4:])
        outcomes = [answered(future) for future in futures]
    assert len({outcome.id for outcome in outcomes}) == len(futures)
    client.until(lambda: set(client.answers) == set(tags))
    client.until(lambda: client.hubs == {"two": "ready"})
    assert "Traceback" not in processes.log("two")


def test_one_dies_with_the_broker(
    fleet: tuple[Any, str, PlainClient], mosquitto: Any, eventually: Callable[..., None]
) -> None:
    """Then nobody publishes its will: its state says `ready`, and the broker keeps a third of the asks for it. The
    others notice all the same, and even who asks once is answered.
    """
    processes, _, client = fleet
    saved = mosquitto.folder / "mosquitto.db"
    kept = (b"hub-three-asks", b"edge/v1/hub/three/state")
    eventually(lambda: saved.exists() and all(words in saved.read_bytes() for words in kept))
    mosquitto.stop(kill=True)
    processes.kill("three")
    mosquitto.start()
    client.until(lambda: not client.link.is_open)
    client.until(lambda: client.link.is_open)
    for name in ("one", "two"):
        eventually(lambda name=name: processes.log(name).count("takes questions") == 2)
    tags = [f"tag-{number}" for number in range(12)]
    client.ask(*tags)
    client.until(lambda: set(client.answers) == set(tags))
    client.until(lambda: client.hubs == {"one": "ready", "two": "ready"})
    assert "hub three is gone: nothing is left of it" in processes.log("one")


def test_hubs_share_the_work(fleet: tuple[Any, str, PlainClient]) -> None:
    """Each hub gets a part of the questions, each node its part of all; each question is answered and kept once."""
    processes, url, _ = fleet
    before = {name: sent_by(processes, name, "kitchen") for name in HUBS}
    with Asker(url, "kitchen") as asker:
        outcomes = [answered(asker.submit(wire.Question(question="Why?"))) for _ in range(12)]
        outcomes += map(answered, [asker.submit(wire.Question(question="Why?")) for _ in range(ASKED)])
    taken = {name: sent_by(processes, name, "kitchen") - before[name] for name in HUBS}
    assert sum(taken.values()) == 12 + ASKED
    assert min(taken.values()) >= (12 + ASKED) / 6, taken
    at_once = Counter(outcome.node for outcome in outcomes[12:])
    assert min(at_once.values()) >= ASKED / NODES / 2, at_once
    for name in HUBS:
        assert processes.end(name) == 0
    with sqlite3.connect(processes.store) as store:
        rows = store.execute("SELECT id, COUNT(*) FROM questions WHERE device = 'kitchen' GROUP BY id").fetchall()
    assert {count for _, count in rows} == {1}
    assert len(rows) == 12 + ASKED
