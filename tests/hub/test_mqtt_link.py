"""The MQTT link, against both brokers: request and reply, wills, acknowledging by hand, coming back."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hub import attempts, tcp
from hub.attempts import SLOW_CONNECT_S
from hub.broker_url import BrokerUrl
from hub.errors import IdentityError, LinkError
from hub.handlers import Handlers, Received, Will
from hub.loop import Loop
from hub.mqtt_link import WITH_THE_CONNECTION, Link
from hub.tls import Tls
from tests.hub.turns import drive
from tests.secured import SecuredFleet


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def connect(loop: Loop, url: str, name: str, got: list[Received], *topics: str, **options: object) -> Link:
    """A link that is open and keeps what it receives."""
    handlers = Handlers(received=got.append)
    subscriptions = [(topic, 1) for topic in topics]
    link = Link(BrokerUrl.parse(url), name, handlers, subscriptions=subscriptions, **options)  # type: ignore[arg-type]
    loop.add(link)
    drive(loop, lambda: link.is_open)
    return link


def test_properties_survive(loop: Loop, broker_url: str) -> None:
    """Response Topic, Correlation Data, user properties and expiry arrive as they were sent."""
    got: list[Received] = []
    link = connect(loop, broker_url, "one", got, "t/one")
    link.publish(
        "t/one", b"hi", qos=1, correlation=b"\x00\xff", response_topic="t/two", expiry_s=30,
        user_properties=[("error", "deadline")],
    )  # fmt: skip
    drive(loop, lambda: got)
    message = got[0]
    assert (message.payload, message.correlation, message.response_topic) == (b"hi", b"\x00\xff", "t/two")
    assert message.user_properties == (("error", "deadline"),)
    assert message.expiry_s is not None
    assert 25 <= message.expiry_s <= 30


def test_all_that_a_large_fleet_has_retained_comes(loop: Loop, broker_url: str) -> None:
    """Mosquitto queues a thousand messages of QoS 1 for a client, and a hub that starts must not miss the others."""
    told: list[int] = []
    teller = Link(BrokerUrl.parse(broker_url), "teller", Handlers(received=print, accepted=told.append))
    loop.add(teller)
    drive(loop, lambda: teller.is_open)
    for number in range(1500):
        teller.publish(f"t/node/{number}", b"here", qos=1, retain=True)
    drive(loop, lambda: len(told) == 1500, 30.0)
    got: list[Received] = []
    connect(loop, broker_url, "hub", got, "t/node/+", retained=["t/node/+"])
    drive(loop, lambda: len({message.topic for message in got}) == 1500, 30.0)
    teller.publish("t/node/7", b"changed", qos=1, retain=True)
    drive(loop, lambda: got[-1].payload == b"changed")
    assert not got[-1].retained


def test_ticket_is_accepted(loop: Loop, broker_url: str) -> None:
    """The broker's acknowledgement comes back as the ticket that `publish` gave."""
    accepted: list[int] = []
    link = Link(BrokerUrl.parse(broker_url), "one", Handlers(received=print, accepted=accepted.append))
    loop.add(link)
    drive(loop, lambda: link.is_open)
    tickets = [link.publish("t/x", b"%d" % number, qos=1) for number in range(50)]
    drive(loop, lambda: len(accepted) == 50)
    assert sorted(accepted) == tickets
    assert link.round_trip_ms is not None
    assert 0.05 < link.round_trip_ms < 500


@pytest.mark.broker
def test_a_round_trip_does_not_hold_an_outage(loop: Loop, mosquitto: Any) -> None:
    """What waited for the broker's return says nothing of the way to it."""
    link = connect(loop, mosquitto.url, "one", [])
    mosquitto.stop(kill=True)
    accepted: list[int] = []
    link._handlers = Handlers(received=print, accepted=accepted.append)
    link.publish("t/x", b"while it still looks open", qos=1)
    drive(loop, lambda: not link.is_open)
    assert link.round_trip_ms is None
    link.publish("t/x", b"while it is away", qos=1)
    time.sleep(0.7)
    mosquitto.start()
    drive(loop, lambda: len(accepted) == 2)
    link.publish("t/x", b"now", qos=1)
    drive(loop, lambda: len(accepted) == 3)
    assert link.round_trip_ms is not None
    assert link.round_trip_ms < 500


def test_acknowledged_in_order_of_receipt(loop: Loop, broker_url: str) -> None:
    """However acknowledgements are called for, they leave in order; the unacknowledged come again."""
    got: list[Received] = []
    link = connect(loop, broker_url, "keeper", got, "t/k", session_expiry_s=60, by_hand=True)
    sender = connect(loop, broker_url, "sender", [])
    for number in range(4):
        sender.publish("t/k", b"%d" % number, qos=1)
    drive(loop, lambda: len(got) == 4)
    for message in (got[1], got[0], got[3]):
        link.acknowledge(message.receipt)
    link.acknowledge(12345)  # unknown: of a connection that is gone
    loop.close()

    again: list[Received] = []
    second = Loop()
    connect(second, broker_url, "keeper", again, "t/k", session_expiry_s=60, by_hand=True)
    drive(second, lambda: len(again) >= 2)
    second.close()
    assert [message.payload for message in again] == [b"2", b"3"]


def test_will_is_published(loop: Loop, broker_url: str) -> None:
    """A connection that breaks without goodbye leaves its will, retained; one that leaves does not."""
    got: list[Received] = []
    connect(loop, broker_url, "watcher", got, "t/will")
    wills = iter(range(1, 9))
    mortal = connect(loop, broker_url, "mortal", [], will=lambda: Will("t/will", b"died %d" % next(wills)))
    sock = mortal._client.socket()
    assert sock is not None
    sock.shutdown(2)
    drive(loop, lambda: got)
    assert got[0].payload == b"died 1"
    drive(loop, lambda: mortal.is_open)  # it came back by itself, with a will of its own
    mortal.leave()
    late: list[Received] = []
    connect(loop, broker_url, "late", late, "t/will")
    drive(loop, lambda: late)
    assert (late[0].payload, late[0].retained) == (b"died 1", True)


@pytest.mark.broker
def test_publishes_outlive_a_broker_restart(loop: Loop, mosquitto: object) -> None:
    """What was published at QoS 1 while the broker was away arrives when it is back."""
    got: list[Received] = []
    link = connect(loop, mosquitto.url, "one", got, "t/one")  # type: ignore[attr-defined]
    mosquitto.stop(kill=True)  # type: ignore[attr-defined]
    drive(loop, lambda: not link.is_open)
    link.publish("t/one", b"late", qos=1)
    link.publish("t/one", b"lost", qos=0)
    mosquitto.start()  # type: ignore[attr-defined]
    drive(loop, lambda: got)
    assert [message.payload for message in got] == [b"late"]


@pytest.mark.broker
def test_what_is_outdated_is_not_sent_again(loop: Loop, mosquitto: Any) -> None:
    """Of three messages that the broker never acknowledged the two whose time is over are dropped when it is back."""
    got: list[Received] = []
    link = connect(loop, mosquitto.url, "sender", [])
    mosquitto.stop(kill=True)
    drive(loop, lambda: not link.is_open)
    link.publish("t", b"with its connection", qos=1, until=WITH_THE_CONNECTION)
    link.publish("t", b"until now", qos=1, until=time.monotonic())
    link.publish("t", b"for long", qos=1, until=time.monotonic() + 60)
    link.paused = True
    mosquitto.start()
    connect(loop, mosquitto.url, "receiver", got, "t")
    link.paused = False
    drive(loop, lambda: link.is_open)
    link.publish("t", b"after", qos=1)
    drive(loop, lambda: len(got) >= 2)
    assert [message.payload for message in got] == [b"for long", b"after"]


@pytest.mark.parametrize("look_first", [False, True])
def test_a_network_that_swallows_packets_stops_nobody_twice(
    loop: Loop, broker_url: str, monkeypatch: pytest.MonkeyPatch, look_first: bool
) -> None:
    """Behind an attempt that hung, or before any, the broker is looked for in another thread until it answers; then
    the link opens.
    """
    link = Link(BrokerUrl.parse(broker_url), "patient", Handlers(received=lambda message: None), look_first=look_first)
    attempts: list[str] = []
    swallowed = threading.Event()
    swallowed.set()
    connect, create = link._client.connect, socket.create_connection

    def hang(*arguments: Any, **options: Any) -> Any:
        attempts.append("loop")
        if swallowed.is_set():
            threading.Event().wait(SLOW_CONNECT_S + 0.1)
            raise TimeoutError("timed out")
        return connect(*arguments, **options)

    def look(*arguments: Any, **options: Any) -> Any:
        attempts.append(threading.current_thread().name)
        if swallowed.is_set():
            raise TimeoutError("timed out")
        return create(*arguments, **options)

    monkeypatch.setattr(link._client, "connect", hang)
    monkeypatch.setattr(socket, "create_connection", look)
    loop.add(link)
    drive(loop, lambda: attempts.count("reach") >= 3, limit_s=20)
    assert attempts.count("loop") == (0 if look_first else 1)
    swallowed.clear()
    drive(loop, lambda: link.is_open, limit_s=20)


def test_writing_within_a_handler_waits_for_its_end(loop: Loop, broker_url: str) -> None:
    """What is published at QoS 0 there is not lost, and does not stop the loop either."""
    got: list[Received] = []
    links: list[Link] = []

    def received(message: Received) -> None:
        got.append(message)
        if message.payload == b"ask":
            links[0].publish("t/back", b"chunk", qos=0)
            links[0].write()

    link = Link(BrokerUrl.parse(broker_url), "back", Handlers(received=received), subscriptions=[("t/back", 1)])
    links.append(link)
    loop.add(link)
    drive(loop, lambda: link.is_open)
    link.publish("t/back", b"ask", qos=1)
    drive(loop, lambda: len(got) == 2)
    assert [message.payload for message in got] == [b"ask", b"chunk"]


def test_large_payload(loop: Loop, broker_url: str) -> None:
    """Ten megabytes pass the broker, so that the hub itself can refuse them by name."""
    got: list[Received] = []
    link = connect(loop, broker_url, "one", got, "t/one")
    link.publish("t/one", b"x" * 10_000_000, qos=1)
    drive(loop, lambda: got)
    assert len(got[0].payload) == 10_000_000


# --- by TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_tls(secured: SecuredFleet) -> SecuredFleet:
    """A broker that lets in who has a certificate."""
    secured.issue("device", "kitchen")
    secured.issue("hub", "hub", hosts=("localhost",))
    secured.start()
    return secured


@pytest.mark.broker
def test_much_comes_by_tls(loop: Loop, by_tls: SecuredFleet) -> None:
    """Large messages and many, whole and in order."""
    got: list[Received] = []
    hub = Link(by_tls.at("hub-hub"), "hub", Handlers(received=got.append), subscriptions=[("edge/v1/ask/+", 1)])
    kitchen = Link(by_tls.at("device-kitchen"), "kitchen", Handlers(received=print))
    for link in (hub, kitchen):
        loop.add(link)
    drive(loop, lambda: hub.is_open and kitchen.is_open)
    sent = [b"%d" % number * size for number, size in enumerate([1, 300_000, 1, 1, 700_000, *[2] * 200])]
    for payload in sent:
        kitchen.publish("edge/v1/ask/kitchen", payload, qos=1)
    drive(loop, lambda: len(got) == len(sent))
    assert [message.payload for message in got] == sent


@pytest.mark.broker
def test_what_tls_holds_is_read_without_waiting_for_more(
    loop: Loop, by_tls: SecuredFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop does not wait while a link has something decrypted, and has the link read it."""
    link = Link(by_tls.at("device-kitchen"), "holds", Handlers(received=print))
    loop.add(link)
    drive(loop, lambda: link.is_open)
    assert loop._time_to_next(time.monotonic()) > 0
    reads: list[int] = []
    monkeypatch.setattr(tcp, "has_pending", lambda sock: sock is not None and not reads)
    monkeypatch.setattr(link, "read", lambda: reads.append(1))
    assert loop._time_to_next(time.monotonic()) == 0
    loop.run_once(5.0)
    assert reads == [1]


@pytest.mark.broker
def test_distrust_ends_who_gives_up_and_is_said_once_by_others(
    loop: Loop, by_tls: SecuredFleet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command ends with the reason; a node or hub goes on trying, and its log has the reason one time."""
    monkeypatch.setattr(attempts, "DISTRUST_RETRY_S", 0.1)
    elsewhere = by_tls.at("device-kitchen", f"mqtts://127.0.0.1:{by_tls.port}")
    nobody = BrokerUrl.parse(by_tls.url, Tls(by_tls.fleet.folder / "ca.pem"))
    for url, words in ((elsewhere, "not valid for '127.0.0.1'"), (nobody, "certificate required")):
        hasty = Loop()
        hasty.add(Link(url, "hasty", Handlers(received=print), gives_up=True))
        with pytest.raises(LinkError, match=words):
            drive(hasty, lambda: False)
        hasty.close()
        caplog.clear()
        patient = Link(url, "patient", Handlers(received=print))
        tries: list[float] = []
        begun = patient._attempts.begun
        patient._attempts.begun = lambda tries=tries, begun=begun: (tries.append(1.0), begun())  # type: ignore[method-assign,misc]
        loop.add(patient)
        drive(loop, lambda tries=tries: len(tries) > 4)
        loop.remove(patient)
        assert [record.message for record in caplog.records if words in record.message and record.levelno >= 30]
        assert sum(words in record.message and record.levelno >= 30 for record in caplog.records) == 1


@pytest.mark.broker
def test_a_broker_that_stands_still_stops_nobody(loop: Loop, by_tls: SecuredFleet) -> None:
    """It takes connections and does not shake hands: the loop turns all the same, and the link opens once it does."""
    os.kill(by_tls.pid, signal.SIGSTOP)
    try:
        link = Link(by_tls.at("device-kitchen"), "waits", Handlers(received=print))
        loop.add(link)
        longest_s = 0.0
        for _ in range(20):
            started = time.monotonic()
            loop.run_once(0.01)
            longest_s = max(longest_s, time.monotonic() - started)
        assert not link.is_open
        assert longest_s < 2.0  # a handshake that is waited for takes five
    finally:
        os.kill(by_tls.pid, signal.SIGCONT)
    drive(loop, lambda: link.is_open)


@pytest.mark.broker
def test_what_may_not_be_published_is_said(loop: Loop, by_tls: SecuredFleet, caplog: pytest.LogCaptureFixture) -> None:
    """The broker's refusal stands in the log once, however often it comes."""
    link = Link(by_tls.at("device-kitchen"), "forger", Handlers(received=print, accepted=(accepted := []).append))
    loop.add(link)
    drive(loop, lambda: link.is_open)
    for _ in range(3):
        link.publish("edge/v1/ask/hall", b"as somebody else", qos=1)
    drive(loop, lambda: len(accepted) == 3)
    assert sum("Not authorized" in record.message for record in caplog.records) == 1


def test_files_of_tls_that_are_not_there_are_told_at_once(tmp_path: Any) -> None:
    """Not with the first attempt to connect, somewhere in a log."""
    with pytest.raises(IdentityError, match="cannot be read"):
        Link(BrokerUrl.parse("mqtts://h", Tls(tmp_path / "none")), "one", Handlers(received=print))
