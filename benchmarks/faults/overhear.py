"""Hears what passes the broker: keeps every outcome, and now and then publishes a message once more, late.

Two clients on the broker itself, without a gate. What is heard is as complete as a persistent session makes it. What
is replayed carries a mark, by which it is known again; hubs, nodes and askers do not look at that.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from hub import wire
from hub.broker_url import BrokerUrl
from hub.errors import WireError
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link

from .history import Heard, Log, Replayed

MARK: Final = ("replayed", "yes")
SOME: Final = 0.02  # of all messages are replayed at any time
MUCH: Final = 0.5  # of all messages, while a schedule says so
LATEST_S: Final = 3.0
OVERHEARD: Final[tuple[wire.TopicKind, ...]] = ("ask", "work", "report", "answer", "node_state")


class Overhearer:
    """Runs in a thread of its own from `start` to `close`."""

    def __init__(self, log: Log, broker_url: str, seed: int) -> None:
        self._log = log
        self._rng = random.Random(f"replay {seed}")
        self._share = SOME
        self._due: list[tuple[float, int, Received]] = []
        self._order = itertools.count()
        self._stopping = threading.Event()
        self._loop = Loop()
        url = BrokerUrl.parse(broker_url)
        answers = (wire.Topic.all_of("answer"), 1)
        self._outcomes = Link(
            url, "overhear-outcomes", Handlers(received=self._heard), subscriptions=[answers], session_expiry_s=3600
        )
        topics = [(wire.Topic.all_of(kind), 1) for kind in OVERHEARD]
        self._replays = Link(url, "overhear-replays", Handlers(received=self._overheard), subscriptions=topics)
        self._loop.add(self._outcomes)
        self._loop.add(self._replays)
        self._thread = threading.Thread(target=self._run, name="overhear", daemon=True)

    @property
    def is_open(self) -> bool:
        """Whether both clients hear."""
        return self._outcomes.is_open and self._replays.is_open

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def replay_much(self, much: bool) -> None:
        """Replay half of all messages, or few of them."""
        self._share = MUCH if much else SOME

    # --- in its thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._loop.run_once(0.05)
            while self._due and self._due[0][0] <= time.monotonic():
                self._replay(heapq.heappop(self._due)[2])
        self._loop.close()

    def _heard(self, message: Received) -> None:
        topic = wire.Topic.parse(message.topic)
        found = outcome_of(message)
        if topic is not None and found is not None:
            question_id, code, node = found
            self._log.add(
                Heard(
                    device=topic.name,
                    id=question_id,
                    at_s=time.monotonic(),
                    code=code,
                    node=node,
                    replayed=MARK in message.user_properties,
                )
            )

    def _overheard(self, message: Received) -> None:
        if message.retained or MARK in message.user_properties or self._rng.random() >= self._share:
            return
        for _ in range(self._rng.choice((1, 1, 1, 2))):
            late_s = LATEST_S * self._rng.random() ** 2
            heapq.heappush(self._due, (time.monotonic() + late_s, next(self._order), message))

    def _replay(self, message: Received) -> None:
        topic = wire.Topic.parse(message.topic)
        if topic is None or not self._replays.is_open:
            return
        key = about(topic, message)
        if key is not None and topic.kind != "answer":
            self._log.add(Replayed(device=key[0], id=key[1], at_s=time.monotonic(), what=topic.kind))
        self._replays.publish(
            message.topic,
            message.payload,
            qos=1,
            correlation=message.correlation,
            response_topic=message.response_topic,
            expiry_s=message.expiry_s,
            user_properties=[*message.user_properties, MARK],
        )


def outcome_of(message: Received) -> tuple[str, str, str | None] | None:
    """The question's id, `answered` or the failure's code, and the node; None for a piece of an answer."""
    try:
        reply = wire.decode_reply(message.payload)
    except WireError:  # plain text
        code = dict(message.user_properties).get(wire.ERROR_PROPERTY, "answered")
        return (message.correlation or b"").decode(errors="replace"), code, None
    if isinstance(reply, wire.Chunk):
        return None
    if isinstance(reply, wire.Failure):
        return reply.id, reply.error.code, None
    return reply.id, "answered", reply.node


def about(topic: wire.Topic, message: Received) -> tuple[str, str] | None:
    """Which question a message is about, if about one."""
    if topic.kind == "ask":
        return topic.name, (message.correlation or b"").decode(errors="replace")
    try:
        document: dict[str, Any] = json.loads(message.payload)
    except ValueError:
        return None
    find: Callable[[dict[str, Any]], Any] = _WHERE.get(topic.kind, lambda _: None)
    device, question_id = document.get("device"), find(document)
    return (device, question_id) if isinstance(device, str) and isinstance(question_id, str) else None


_WHERE: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "work": lambda document: document.get("question", {}).get("id"),
    "report": lambda document: document.get("id"),
}
