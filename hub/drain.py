"""Tells a node to take nothing new, or to take questions again, and waits until it has come to that.

Needs no hub: the node shows in its own retained state that it drains, so every hub sees it, also one that starts later.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Final

from hub import wire
from hub.broker_url import BrokerUrl
from hub.errors import LinkError, NodeError, WireError
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link

CONNECT_LIMIT_S: Final = 5.0
OBEY_LIMIT_S: Final = 5.0
QUIET_S: Final = 0.3  # the node's retained state comes at once after the subscription, or not at all
ASK_EVERY_S: Final = 0.25  # how much is left


class _Drain:
    """One node, asked by a nameless client. The node answers its pings as it answers a hub's, with its backlog."""

    def __init__(self, broker: str | BrokerUrl, node: str) -> None:
        self.node = node
        self.url = BrokerUrl.of(broker)
        self.state: wire.NodeState | None = None
        self.left: int | None = None  # questions at the node, as of its last pong
        self.is_open = False
        self._me = f"drain-{uuid.uuid4().hex[:12]}"
        self._seq = 0
        self._asked_seq = 0
        self._loop = Loop()
        self._link = Link(
            self.url,
            self._me,
            Handlers(received=self._received, opened=self._opened),
            subscriptions=[(str(wire.Topic("node_state", node)), 1), (str(wire.Topic("report", node)), 0)],
            gives_up=True,
        )
        self._loop.add(self._link)

    def close(self) -> None:
        self._link.flush()
        self._loop.close()

    def wait(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Whether the condition came to hold."""
        end = time.monotonic() + limit_s
        while not condition() and time.monotonic() < end:
            self._loop.run_once(0.05)
        return condition()

    def control(self, control: wire.Control, qos: int) -> None:
        self._link.publish(str(wire.Topic("control", self.node)), wire.encode(control), qos=qos)

    def is_idle(self) -> Callable[[], bool]:
        """A condition: the node has said, since now, that it has nothing left to do. It is asked again and again."""
        self.left, self._asked_seq = None, self._seq
        next_ping_at = time.monotonic()

        def condition() -> bool:
            nonlocal next_ping_at
            if time.monotonic() >= next_ping_at:
                self._seq += 1
                self.control(wire.Ping(hub=self._me, seq=self._seq), 0)
                next_ping_at = time.monotonic() + ASK_EVERY_S
            return self.left == 0 or self.is_offline()

        return condition

    def is_offline(self) -> bool:
        return self.state is None or self.state.status == "offline"

    def _opened(self) -> None:
        self.is_open = True

    def _received(self, message: Received) -> None:
        topic = wire.Topic.parse(message.topic)
        try:
            if topic is not None and topic.kind == "node_state":
                self.state = wire.decode_node_state(message.payload) if message.payload else None
            elif topic is not None and topic.kind == "report" and not message.retained:
                report = wire.decode_report(message.payload)
                if isinstance(report, wire.Pong) and report.hub == self._me and report.seq > self._asked_seq:
                    self.left = report.backlog.questions
        except WireError:
            return  # not from a node of ours


def drain(broker: str | BrokerUrl, node: str, *, on: bool, wait_s: float, tell: Callable[[str], None]) -> str:
    """Let `node` take nothing new, and wait up to `wait_s` until it has ended what it has; or, with `on` false, take
    it back. Returns what has happened, in a line; `tell` gets lines meanwhile.

    Raises LinkError without a broker, NodeError where there is no such node, or it does not do so.
    """
    one = _Drain(broker, node)
    try:
        if not one.wait(lambda: one.is_open, CONNECT_LIMIT_S):
            raise LinkError(f"{one.url} did not answer within {CONNECT_LIMIT_S:.0f} s: is a broker running there?")
        one.wait(lambda: one.state is not None, QUIET_S)
        if one.is_offline():
            why = "is offline" if one.state is not None else "is not known"
            raise NodeError(f"node {node!r} {why} at {one.url}: `edge-hub nodes` lists who is there")
        return _drain(one, wait_s, tell) if on else _undo(one)
    finally:
        one.close()


def _drain(one: _Drain, wait_s: float, tell: Callable[[str], None]) -> str:
    _obey(one, "draining", wire.Drain())
    tell(f"node {one.node} takes no new questions")
    is_idle = one.is_idle()
    if not one.wait(is_idle, wait_s):
        left = "did not say what it has left" if one.left is None else f"has {one.left} questions left"
        raise NodeError(f"node {one.node} drains, but {left} after {wait_s:g} s: ask again, or give it longer (--wait)")
    if one.is_offline():
        return f"node {one.node} went offline; what it had goes to other nodes"
    undo = f"`edge-hub drain {one.node} --undo` takes it back"
    return f"node {one.node} is drained: nothing is left, and nothing new comes; {undo}"


def _undo(one: _Drain) -> str:
    _obey(one, "ready", wire.Drain(on=False))
    return f"node {one.node} is ready and takes questions"


def _obey(one: _Drain, status: str, control: wire.Drain) -> None:
    if one.state is not None and one.state.status == status:
        return
    one.control(control, 1)
    if not one.wait(lambda: one.state is not None and one.state.status == status, OBEY_LIMIT_S):
        now = "gone" if one.state is None else one.state.status
        raise NodeError(f"node {one.node} is not {status} after {OBEY_LIMIT_S:.0f} s but {now}: is it shutting down?")
