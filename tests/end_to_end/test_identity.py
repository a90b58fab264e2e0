"""A fleet by TLS, as provisioned: commands with nothing but their directories, and what a stolen certificate can do.

Hub and askers are real processes; the node is the agent's service over an answerer that does nothing.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.noop_node import BUNDLE, Noop
from edge_agent.runtime.generation import OneByOne
from edge_agent.service import AgentService
from hub import wire
from hub.ask import Asker
from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received, Will
from hub.loop import Loop
from hub.mqtt_link import Link
from hub.provision.fleet import init
from hub.provision.subject import Subject
from tests.conftest import Running
from tests.secured import SecuredFleet, now

pytestmark = pytest.mark.broker
BIN = Path(sys.executable).parent
RATE = 10  # of a device, as provisioned
FLOOD = 1500


class Client:
    """A client with somebody's certificate that keeps what it receives; it asks once, as plain clients do."""

    def __init__(self, url: BrokerUrl, name: str, *topics: str, will: Will | None = None) -> None:
        self.got: list[Received] = []
        self.accepted: list[int] = []
        self.loop = Loop()
        self.link = Link(
            url,
            name,
            Handlers(received=self.got.append, accepted=self.accepted.append),
            subscriptions=[(topic, 1) for topic in topics],
            will=None if will is None else lambda: will,
        )
        self.loop.add(self.link)

    def turn_until(self, condition: Callable[[], object], limit_s: float = 10.0) -> bool:
        deadline = now() + dt.timedelta(seconds=limit_s)
        while not condition() and now() < deadline:
            self.loop.run_once(0.02)
        return bool(condition())

    def opened(self) -> Client:
        assert self.turn_until(lambda: self.link.is_open)
        return self


@pytest.fixture(scope="module")
def fleet(secured: SecuredFleet, eventually: Callable[..., None]) -> Iterator[SecuredFleet]:
    """A broker, a hub that is a process, and a node."""
    for role, name in (("device", "kitchen"), ("device", "thief"), ("device", "gone"), ("node", "n1"), ("hub", "hub")):
        secured.issue(role, name, **({"hosts": ("localhost",)} if role == "hub" else {}))
    secured.start()
    log = secured.fleet.folder / "hub.log"
    with log.open("wb") as output:
        command = [str(BIN / "edge-hub"), "serve", "--config", secured.config("hub-hub")]
        hub = subprocess.Popen(command, stdout=output, stderr=output)
    node = Running(AgentService(secured.at("node-n1"), "n1", {BUNDLE: OneByOne(Noop())}))
    try:
        eventually(lambda: "takes questions" in log.read_text(), limit_s=30)
        yield secured
    finally:
        node.stop()
        hub.terminate()
        hub.wait(10)


def ask(fleet: SecuredFleet, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "edge-ask"), "What is the capital of France?", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def answers(client: Client) -> list[Received]:
    return [each for each in client.got if b'"error"' not in each.payload]


def all_answered(fleet: SecuredFleet, count: int = 8) -> bool:
    """Whether a device of the fleet that asks each question only once gets an answer to all of them."""
    kitchen = Client(fleet.at("device-kitchen"), "plain", "edge/v1/answer/kitchen").opened()
    for number in range(count):
        question = wire.Question(id=f"q{number}", question="why?", deadline_ms=10_000)
        kitchen.link.publish("edge/v1/ask/kitchen", wire.encode(question), qos=1)
    everything = kitchen.turn_until(lambda: len(kitchen.got) >= count, 12.0)
    kitchen.loop.close()
    return everything and len(answers(kitchen)) == count


def test_a_question_is_answered_with_nothing_but_the_directories(fleet: SecuredFleet) -> None:
    """Device, node and hub each have what `provision` wrote, and a question comes back answered."""
    done = ask(fleet, "--config", fleet.config("device-kitchen"), "--json")
    assert (done.returncode, json.loads(done.stdout)["text"], json.loads(done.stdout)["node"]) == (0, "yes", "n1")


def test_an_operator_uses_the_hubs_directory(fleet: SecuredFleet) -> None:
    """`edge-hub nodes` and `drain` take the same file, options of `serve` in it or not."""
    config = ("--config", fleet.config("hub-hub"))
    shown = subprocess.run(
        [str(BIN / "edge-hub"), "nodes", *config, "--json"], capture_output=True, text=True, check=True
    )
    assert [node["node"] for node in json.loads(shown.stdout)] == ["n1"]
    for undo, words in (((), "is drained"), (("--undo",), "is ready")):
        command = [str(BIN / "edge-hub"), "drain", "n1", *config, *undo]
        assert words in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_stolen_certificate_takes_no_share_of_the_questions(fleet: SecuredFleet) -> None:
    """It can join any group but that of the hubs, whose name takes their secret; else half of all asks went there."""
    thief = Client(fleet.at("device-thief"), "t", "$share/hubs/edge/v1/ask/+", "$share/x/#", "#", "+/+/+/+").opened()
    assert all_answered(fleet)
    thief.turn_until(lambda: False, 0.2)
    assert thief.got == []
    thief.loop.close()


def test_a_stolen_certificate_takes_nobodys_place(fleet: SecuredFleet) -> None:
    """Under the plain names of node and hub it throws nobody out, and gets nothing of theirs."""
    names = ("node-n1", "hub-hub", "hub-hub-asks")
    thieves = [Client(fleet.at("device-thief"), name, "#").opened() for name in names]
    assert all_answered(fleet)
    assert [thief.got for thief in thieves] == [[], [], []]
    for thief in thieves:
        thief.loop.close()


def test_a_stolen_certificate_leaves_no_will_on_anothers_topic(
    fleet: SecuredFleet, eventually: Callable[..., None]
) -> None:
    """A client whose will is to say that a node is offline dies, and nobody hears of it."""
    state = wire.encode(wire.NodeState(epoch=2**50, status="offline"))
    hub = Client(fleet.at("hub-hub"), "look", "edge/v1/node/n1/state", "edge/v1/hub/look/state").opened()
    thief = Client(fleet.at("device-thief"), "mortal", will=Will("edge/v1/node/n1/state", state)).opened()
    sock = thief.link._client.socket()
    assert sock is not None
    sock.shutdown(2)
    eventually(lambda: "Client mortal closed its connection" in fleet.log)
    hub.link.publish("edge/v1/hub/look/state", b"", qos=1)  # comes after whatever the broker has published before
    assert hub.turn_until(lambda: hub.got and hub.got[-1].topic == "edge/v1/hub/look/state")
    assert {wire.decode_node_state(each.payload).status for each in hub.got[:-1]} == {"ready"}
    hub.loop.close()


def test_a_stolen_certificate_sends_no_answer_elsewhere(fleet: SecuredFleet) -> None:
    """A Response Topic of another device is not honoured: the answer goes to whom asked."""
    kitchen = Client(fleet.at("device-kitchen"), "k", "edge/v1/answer/kitchen").opened()
    thief = Client(fleet.at("device-thief"), "r", "edge/v1/answer/thief").opened()
    thief.link.publish("edge/v1/ask/thief", b"for whom?", qos=1, response_topic="edge/v1/answer/kitchen")
    assert thief.turn_until(lambda: answers(thief))
    kitchen.turn_until(lambda: False, 0.2)
    assert kitchen.got == []
    for client in (kitchen, thief):
        client.loop.close()


def test_a_stolen_certificate_leaves_nothing_behind(fleet: SecuredFleet) -> None:
    """A question that it lets the broker keep is answered once, when it is asked, and burdens nobody later."""
    thief = Client(fleet.at("device-thief"), "kept", "edge/v1/answer/thief").opened()
    question = wire.Question(id="kept", question="why?", deadline_ms=5000)
    thief.link.publish("edge/v1/ask/thief", wire.encode(question), qos=1, retain=True)
    assert thief.turn_until(lambda: thief.got)
    assert all_answered(fleet)
    assert len(answers(thief)) == 1
    thief.loop.close()


def test_a_stolen_certificate_does_not_crowd_others_out(fleet: SecuredFleet) -> None:
    """Of a flood of questions the hub takes as many as a device may ask; others are answered meanwhile.

    Some of the flood, more than the broker keeps for a hub, is lost there; askers repeat what is lost of theirs.
    """
    thief = Client(fleet.at("device-thief"), "flood", "edge/v1/answer/thief").opened()
    for number in range(FLOOD):
        thief.link.publish("edge/v1/ask/thief", wire.encode(wire.Question(id=f"f{number}", question="why?")), qos=1)
    thief.turn_until(lambda: thief.got)
    with Asker(fleet.at("device-kitchen"), "kitchen") as kitchen:
        asked = [kitchen.submit(wire.Question(question="why?", deadline_ms=20_000)) for _ in range(8)]
        thief.turn_until(lambda: all(each.done() for each in asked), 40.0)
        outcomes = [each.result().reply for each in asked]
    assert all(isinstance(each, wire.Answer) for each in outcomes), outcomes
    refused = [wire.decode_reply(each.payload) for each in thief.got if b'"error"' in each.payload]
    assert {each.error.code for each in refused if isinstance(each, wire.Failure)} == {"overloaded"}
    assert len(answers(thief)) < FLOOD / 2
    thief.loop.close()


def test_a_stolen_certificate_cannot_be_a_burden(fleet: SecuredFleet) -> None:
    """A message beyond the limit ends its connection, a thousand subscriptions bring it nothing; others go on."""
    greedy = Client(fleet.at("device-thief"), "g", *[f"edge/v1/answer/{number}/#" for number in range(1000)]).opened()
    greedy.link.publish("edge/v1/ask/thief", b"x" * (2 * wire.MAX_MESSAGE_BYTES), qos=0)
    assert greedy.turn_until(lambda: not greedy.link.is_open)
    assert all_answered(fleet)
    assert greedy.got == []
    greedy.loop.close()


def test_a_revoked_certificate_is_turned_away(fleet: SecuredFleet) -> None:
    """Who is connected loses every right when the broker reloads, who connects is refused; both sides say why."""
    gone = Client(fleet.at("device-gone"), "gone", "edge/v1/answer/gone").opened()
    gone.link.publish("edge/v1/ask/gone", b"am I in?", qos=1)
    assert gone.turn_until(lambda: gone.got)
    fleet.fleet.revoke("gone", None, "key_compromise", now())
    fleet.reload()
    hub = Client(fleet.at("hub-hub"), "listen", "edge/v1/ask/+").opened()
    before, gone.got[:] = len(gone.accepted), []
    gone.link.publish("edge/v1/ask/gone", b"and now?", qos=1)
    assert gone.turn_until(lambda: len(gone.accepted) > before)
    hub.link.publish("edge/v1/answer/gone", b"nothing", qos=1)
    assert hub.turn_until(lambda: hub.accepted)
    gone.turn_until(lambda: False, 0.2)
    assert (gone.got, [each for each in hub.got if each.topic == "edge/v1/ask/gone"]) == ([], [])
    for client in (gone, hub):
        client.loop.close()
    done = ask(fleet, "--config", fleet.config("device-gone"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "it refuses our certificate: certificate revoked" in done.stderr
    assert "certificate verify failed" in fleet.log
    assert all_answered(fleet)


def test_an_expired_certificate_is_turned_away(fleet: SecuredFleet) -> None:
    """It was issued long ago for a day."""
    fleet.fleet.issue(Subject("device", "late"), now() - dt.timedelta(days=30), days=1)
    done = ask(fleet, "--config", fleet.config("device-late"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "it refuses our certificate: certificate expired" in done.stderr


def test_plain_text_on_the_port_of_tls_fails(fleet: SecuredFleet) -> None:
    """Nothing is answered, and the log of both sides says why."""
    done = ask(fleet, "--broker", f"mqtt://localhost:{fleet.port}", "--deadline-ms", "500")
    assert (done.returncode, done.stdout) == (1, "")
    assert "if it speaks TLS there, use mqtts://" in done.stderr
    assert "wrong version number" in fleet.log


def test_tls_on_a_port_of_plain_text_fails(fleet: SecuredFleet, mosquitto: Any) -> None:
    """Nothing is sent in the clear instead."""
    ca = str(fleet.fleet.folder / "ca.pem")
    done = ask(fleet, "--broker", f"mqtts://127.0.0.1:{mosquitto.port}", "--ca", ca, "--deadline-ms", "500")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot connect to mqtts://" in done.stderr


def test_a_broker_of_another_fleet_is_not_trusted(fleet: SecuredFleet, tmp_path: Path) -> None:
    """With another authority a command ends at once, and says what is wrong."""
    init(tmp_path / "other", None, now())
    done = ask(fleet, "--config", fleet.config("device-kitchen"), "--ca", str(tmp_path / "other" / "ca.pem"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "is it of the fleet whose authority --ca is?" in done.stderr


def test_a_broker_under_another_name_is_not_trusted(fleet: SecuredFleet) -> None:
    """Its certificate must be for the host that was asked for."""
    done = ask(fleet, "--config", fleet.config("device-kitchen"), "--broker", f"mqtts://127.0.0.1:{fleet.port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "certificate is not valid for '127.0.0.1'" in done.stderr


def test_without_a_certificate_nobody_comes_in(fleet: SecuredFleet) -> None:
    """The authority alone is not enough."""
    ca = str(fleet.fleet.folder / "ca.pem")
    done = ask(fleet, "--broker", fleet.url, "--ca", ca)
    assert (done.returncode, done.stdout) == (1, "")
    assert "it refuses our certificate: certificate required" in done.stderr
