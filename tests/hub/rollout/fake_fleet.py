"""Scripted nodes on a real broker: each follows its Desired and tells how far it is. No bundle is opened."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from hub import wire
from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received, Will
from hub.loop import Loop
from hub.mqtt_link import Link
from tests.hub.rollout.scene import FakeNode

TICK_S = 0.05


class FakeFleet:
    """Nodes in one thread; `join` lets one appear later, and `leave` one go, as it is when the power is gone."""

    def __init__(self, broker: str, nodes: Mapping[str, FakeNode]) -> None:
        self.nodes = dict(nodes)
        self.told: dict[str, list[wire.Desired]] = {name: [] for name in nodes}
        self._url = BrokerUrl.parse(broker)
        self._loop = Loop()
        self._links: dict[str, Link] = {}
        self._ending = False
        for name, node in nodes.items():
            if node.there:
                self._connect(name)
        self._loop.call_at(time.monotonic() + TICK_S, self._tick)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self, name: str) -> None:
        """It is there from now on."""
        self.nodes[name].there = True
        self._loop.call_soon(lambda: self._connect(name))

    def close(self) -> None:
        """All leave."""
        self._ending = True
        self._loop.call_soon(lambda: None)
        self._thread.join(10)

    def _run(self) -> None:
        while not self._ending:
            self._loop.run_once(1.0)
        self._loop.close()

    def _connect(self, name: str) -> None:
        link = self._links[name] = Link(
            self._url,
            f"node-{name}",
            Handlers(received=lambda message: self._received(name, message), opened=lambda: self._show(name)),
            subscriptions=[(str(wire.Topic("desired", name)), 1), (str(wire.Topic("control", name)), 1)],
            will=lambda: Will(
                str(wire.Topic("node_state", name)), wire.encode(wire.NodeState(epoch=1, status="offline"))
            ),
        )
        self._loop.add(link)

    def _received(self, name: str, message: Received) -> None:
        if message.topic.endswith("/desired"):
            desired = wire.decode_desired(message.payload)
            self.told[name].append(desired)
            self.nodes[name].retained = desired
            return
        control = wire.decode_control(message.payload)
        if isinstance(control, wire.Ping):
            pong = wire.Pong(hub=control.hub, seq=control.seq, hold_ms=0.0)
            self._links[name].publish(str(wire.Topic("report", name)), wire.encode(pong), qos=0)

    def _tick(self) -> None:
        for name, node in self.nodes.items():
            before = node.deployment
            node.tick()
            if node.deployment is not before:
                self._show(name)
        self._loop.call_at(time.monotonic() + TICK_S, self._tick)

    def _show(self, name: str) -> None:
        node = self.nodes[name]
        state = wire.NodeState(
            epoch=1, status="ready", bundles=node.bundles, deployment=node.deployment, deploys=True,
            profile=node.profile,
        )  # fmt: skip
        self._links[name].publish(str(wire.Topic("node_state", name)), wire.encode(state), qos=1, retain=True)
