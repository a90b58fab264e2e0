"""Every role against every topic, on the real Mosquitto: what it may publish, what reaches it, and what not.

Mosquitto grants every subscription, so what can be read is judged by what arrives; what can be published by the reason
in the acknowledgement. Everybody subscribes to everything and publishes on everything, once; each cell is an assertion.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from hub.provision.acl import acl_file, rules
from hub.provision.subject import Subject
from tests.secured import SecuredFleet

WHO = ("device-kitchen", "device-hall", "node-orin-1", "node-orin-2", "hub-hub", "hub-spare")
KINDS = ("state", "work", "control", "desired", "report")
NODE_TOPICS = [f"node/{node}/{kind}" for node in ("orin-1", "orin-2") for kind in KINDS]
ANSWERS = ["answer/kitchen", "answer/kitchen/7", "answer/hall", "answer/den", "answer/orin-2", "answer/page-hub"]
ASKS = ["ask/kitchen", "ask/hall", "ask/den", "ask/orin-2", "ask/page-hub", "ask/page-spare"]
OTHERS = ["hub/hub/state", "hub/spare/state", "ask/kitchen/door", "node/orin-1/work/more", "anything"]
TOPICS = [f"edge/v1/{each}" for each in (*NODE_TOPICS, *ANSWERS, *ASKS, *OTHERS)] + ["elsewhere"]

# By hand, so that the rules are held against what was meant. `den` is the device of the machine of orin-1.
OWN_OF_NODE = ("state", "work", "control", "desired")
HUB_READS = {f"node/{n}/{kind}" for n in ("orin-1", "orin-2") for kind in ("state", "work", "desired", "report")}
HUB_READS |= {*ASKS, "hub/hub/state", "hub/spare/state"}
HUB_WRITES = {f"node/{n}/{kind}" for n in ("orin-1", "orin-2") for kind in ("work", "control", "desired")}
HUB_WRITES |= {*ANSWERS, "hub/hub/state", "hub/spare/state"}
HUB_STATES = {"hub/hub/state", "hub/spare/state"}
READS = {
    "device-kitchen": {"answer/kitchen", "answer/kitchen/7"},
    "device-hall": {"answer/hall"},
    "node-orin-1": {*(f"node/orin-1/{kind}" for kind in OWN_OF_NODE), *HUB_STATES, "answer/den"},
    "node-orin-2": {*(f"node/orin-2/{kind}" for kind in OWN_OF_NODE), *HUB_STATES, "answer/orin-2"},
    "hub-hub": {*HUB_READS, "answer/page-hub"},
    "hub-spare": HUB_READS,
}
WRITES = {
    "device-kitchen": {"ask/kitchen"},
    "device-hall": {"ask/hall"},
    "node-orin-1": {"node/orin-1/state", "node/orin-1/report", *ANSWERS, "ask/den"},
    "node-orin-2": {"node/orin-2/state", "node/orin-2/report", *ANSWERS, "ask/orin-2"},
    "hub-hub": {*HUB_WRITES, "ask/page-hub"},
    "hub-spare": {*HUB_WRITES, "ask/page-spare"},
}
END = {
    "device-kitchen": "answer/kitchen",
    "device-hall": "answer/hall",
    "node-orin-1": "node/orin-1/work",
    "node-orin-2": "node/orin-2/work",
    "hub-hub": "hub/hub/state",
    "hub-spare": "hub/hub/state",
}


class Client:
    """One identity that subscribes to everything, and keeps what comes and how its publishing was answered."""

    def __init__(self, fleet: SecuredFleet, who: str) -> None:
        self.got: set[str] = set()  # topics
        self._code_of: dict[int, int] = {}
        self.subscribed, self.ended = threading.Event(), threading.Event()
        self._topic_of: dict[int, str] = {}
        tls = fleet.at(who).tls
        assert tls is not None
        self.paho = paho.Client(CallbackAPIVersion.VERSION2, who, protocol=paho.MQTTv5)
        self.paho.tls_set_context(tls.client_context())
        self.paho.on_message = self._on_message
        self.paho.on_publish = self._on_publish
        self.paho.on_subscribe = lambda *_: self.subscribed.set()
        self.paho.connect("localhost", fleet.port)
        self.paho.loop_start()
        filters = ["#", "+/+/+/+", "$SYS/#", "$share/x/#", "$share/hubs/edge/v1/ask/+", *TOPICS]
        self.paho.subscribe([(each, SubscribeOptions(qos=1)) for each in filters])
        assert self.subscribed.wait(10)

    def publish(self, topic: str, payload: str) -> None:
        self._topic_of[self.paho.publish(topic, payload, qos=1).mid] = topic

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if message.payload == b"end":
            self.ended.set()
        self.got.add(message.topic)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        self._code_of[mid] = reason.value

    @property
    def codes(self) -> dict[str, int]:
        """How each of its messages was answered, by topic."""
        return {topic: self._code_of[mid] for mid, topic in self._topic_of.items() if mid in self._code_of}


@pytest.fixture(scope="module")
def clients(secured: SecuredFleet, eventually: Callable[..., None]) -> Iterator[dict[str, Client]]:
    """All of them, once everybody has published on everything and everything that was to arrive has."""
    for who in WHO:
        role, _, name = who.partition("-")
        secured.issue(role, name, device="den" if who == "node-orin-1" else None)
    secured.start()
    clients = {who: Client(secured, who) for who in WHO}
    for client in clients.values():
        for topic in TOPICS:
            client.publish(topic, "x")
    eventually(lambda: all(len(client.codes) == len(TOPICS) for client in clients.values()))
    for topic in END.values():
        clients["hub-hub"].publish(f"edge/v1/{topic}", "end")
    for client in clients.values():
        assert client.ended.wait(10)
    yield clients
    for client in clients.values():
        client.paho.disconnect()
        client.paho.loop_stop()


@pytest.mark.broker
@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("who", WHO)
def test_what_may_be_published(clients: dict[str, Client], who: str, topic: str) -> None:
    """An identity publishes on its own topics and is refused on all others."""
    is_meant = topic.removeprefix("edge/v1/") in WRITES[who]
    assert (clients[who].codes[topic] < 0x80) == is_meant, hex(clients[who].codes[topic])


@pytest.mark.broker
@pytest.mark.parametrize("topic", [*TOPICS, "$SYS/broker/version"])
@pytest.mark.parametrize("who", WHO)
def test_what_may_be_read(clients: dict[str, Client], who: str, topic: str) -> None:
    """Of all that is published an identity hears what is meant for it, whatever it subscribes to."""
    assert (topic in clients[who].got) == (topic.removeprefix("edge/v1/") in READS[who])


def test_nothing_is_allowed_by_a_pattern_or_to_everybody() -> None:
    """Each rule stands below a user; there is none before the first, which would hold for all."""
    text = acl_file([Subject("device", "a"), Subject("broker", "broker"), Subject("hub", "h")])
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "user device-a"
    assert {line.split()[0] for line in lines} == {"user", "topic"}
    assert rules(Subject("broker", "broker")) == []
