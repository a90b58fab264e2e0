"""What the hub adds: a question through hub and no-op node against the same two clients talking directly.

Direct and routed questions take turns in one run, so that noise hits both; what counts is the ratio within each
hundred of them. Knows nothing of goals.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
from noop_node import DIRECT_ANSWER, DIRECT_ASK
from paho.mqtt.enums import CallbackAPIVersion

from hub import wire
from hub.broker import EmbeddedBroker
from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
ROUND = 100  # questions whose percentiles are one figure
ASK = str(wire.Topic("ask", "bench"))
ANSWER = str(wire.Topic("answer", "bench"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(*command: str) -> Iterator[int]:
    """The id of a process of ours, which is ended when done."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def mosquitto() -> Iterator[str]:
    """A Mosquitto as shipped, on a free port."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    assert program is not None
    port = free_port()
    with running(program, "-p", str(port)):
        wait_for_port(port)
        yield f"mqtt://127.0.0.1:{port}"


def wait_for_port(port: int) -> None:
    end = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        assert time.monotonic() < end, "the broker did not come up"
        time.sleep(0.05)


@contextlib.contextmanager
def noop_fleet(broker: str) -> Iterator[None]:
    """A hub process and a no-op node process that are ready."""
    with (
        running(str(BIN / "edge-hub"), "serve", "--broker", broker, "--name", "bench"),
        running(sys.executable, str(HERE / "noop_node.py"), "--broker", broker),
    ):
        wait_for_state(broker, wire.Topic("hub_state", "bench"))
        wait_for_state(broker, wire.Topic("node_state", "noop"))
        yield


def wait_for_state(broker: str, topic: wire.Topic) -> None:
    """Until a retained state says `ready`."""
    loop, ready = Loop(), []
    handlers = Handlers(received=lambda message: ready.append(1) if b'"ready"' in message.payload else None)
    loop.add(Link(BrokerUrl.parse(broker), "bench-watch", handlers, subscriptions=[(str(topic), 1)]))
    end = time.monotonic() + 20
    while not ready:
        assert time.monotonic() < end, f"{topic} did not come up"
        loop.run_once(0.1)
    loop.close()


class Client:
    """Asks over one of our links and waits for the reply to just that."""

    def __init__(self, broker: str) -> None:
        self.loop = Loop()
        self._waiting: bytes | None = None
        self.link = Link(
            BrokerUrl.parse(broker),
            "bench-client",
            Handlers(received=self._received),
            subscriptions=[(DIRECT_ANSWER, 1), (ANSWER, 1)],
        )
        self.loop.add(self.link)
        while not self.link.is_open:
            self.loop.run_once(0.1)

    def _received(self, message: Received) -> None:
        if message.correlation == self._waiting:
            self._waiting = None

    def ask_ms(self, topic: str, number: int) -> float:
        """Milliseconds from publish to reply."""
        correlation = b"%d" % number
        question = wire.Question(id=str(number), question="What is the capital of France?", deadline_ms=5000.0)
        self._waiting = correlation
        started = time.perf_counter()
        self.link.publish(
            topic, wire.encode(question), qos=1, correlation=correlation, response_topic=ANSWER, expiry_s=5
        )
        while self._waiting is not None:
            self.loop.run_once(1.0)
            assert time.perf_counter() - started < 10, "no reply"
        return (time.perf_counter() - started) * 1000


def measure(broker: str, questions: int) -> dict[str, list[float]]:
    """Direct and routed round trips in turns, after a warm-up of a tenth."""
    with noop_fleet(broker):
        client = Client(broker)
        times: dict[str, list[float]] = {"direct": [], "routed": []}
        for number in range(-questions // 10, questions):
            for name, topic in (("direct", DIRECT_ASK), ("routed", ASK)):
                took_ms = client.ask_ms(topic, number * 2 + (name == "routed") + 10_000_000)
                if number >= 0:
                    times[name].append(took_ms)
        client.loop.close()
    return times


def default_sockets(broker: str, questions: int) -> list[float]:
    """The same request and reply by two paho clients as shipped."""
    url = BrokerUrl.parse(broker)
    replies: list[bytes] = []

    def client(topic: str, received: Callable[[paho.Client, bytes], None]) -> paho.Client:
        made = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        subscribed: list[int] = []
        made.on_message = lambda client, _, message: received(client, message.payload)
        made.on_subscribe = lambda *_: subscribed.append(1)
        made.connect(url.host, url.port)
        made.loop_start()
        made.subscribe(topic, 1)
        while not subscribed:
            time.sleep(0.01)
        return made

    responder = client("bench/plain/ask", lambda client, payload: client.publish("bench/plain/answer", payload, 1))
    asker = client("bench/plain/answer", lambda client, payload: replies.append(payload))
    times = []
    for number in range(questions):
        started = time.perf_counter()
        asker.publish("bench/plain/ask", b"%d" % number, 1)
        while not replies:
            time.sleep(0.0002)
        replies.clear()
        times.append((time.perf_counter() - started) * 1000)
    for each in (asker, responder):
        each.disconnect()
        each.loop_stop()
    return times


def by_rounds(times_ms: dict[str, list[float]]) -> dict[str, list[float]]:
    """The p50 and p99 of each kind over each ROUND of questions: one number a round, so that rounds can be compared."""
    return {
        f"{kind}_p{share}_ms": [percentile(values[at : at + ROUND], share / 100) for at in range(0, len(values), ROUND)]
        for kind, values in times_ms.items()
        for share in (50, 99)
    }


def round_trips(questions: int) -> dict[str, dict[str, list[float]]]:
    """By broker, the direct and the routed round trips; and what paho does with the sockets it opens by itself."""
    figures = {}
    with mosquitto() as url:
        figures["mosquitto"] = by_rounds(measure(url, questions))
        figures["paho_default_sockets"] = by_rounds({"direct": default_sockets(url, max(questions // 10, 20))})
    with EmbeddedBroker("127.0.0.1", free_port()) as embedded:
        figures["embedded"] = by_rounds(measure(embedded.url, questions))
    return figures


def percentile(values: list[float], share: float) -> float:
    """The least value that at least `share` of all do not exceed, nearly."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
