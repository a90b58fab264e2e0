"""Nodes that answer at once and cost next to nothing themselves, so that a hub can be brought to its limit beside them.

    python benchmarks/bare_nodes.py --broker mqtt://127.0.0.1:1883 --nodes 3

They speak the wire and are no agents: no queue, no repeats, no reconnecting (`noop_node.py` is the real service over an
answerer that does nothing). All of them live in this process, each on a connection of its own.
"""

from __future__ import annotations

import argparse
import itertools
import select
import signal
from typing import Any, Final

from bare_mqtt import BareClient, Message, publish
from noop_node import BUNDLE, Noop

from hub import wire

LOOK_S: Final = 0.2  # for the wish to end


class BareNode:
    """One of them, named `name`."""

    def __init__(self, broker: str, name: str) -> None:
        self._work = str(wire.Topic("work", name)).encode()
        self._report = str(wire.Topic("report", name))
        self._name = name
        self._state = str(wire.Topic("node_state", name))
        self._mids = (number % 65_535 + 1 for number in itertools.count())
        topics = [str(wire.Topic("work", name)), str(wire.Topic("control", name))]
        self.client = BareClient(broker, f"node-{name}", topics)
        self._tell("ready", [Noop.served])

    def serve(self) -> None:
        """Answer all that has come, and write it in one go."""
        replies = b"".join(self._replies(message) for message in self.client.receive(0.0))
        if replies:
            self.client.send(replies)

    def close(self) -> None:
        """Leave."""
        self._tell("offline", [])
        self.client.close()

    def _tell(self, status: Any, bundles: list[wire.ServedBundle]) -> None:
        state = wire.NodeState(epoch=1, status=status, bundles=tuple(bundles))
        self.client.send(publish(self._state, wire.encode(state), mid=next(self._mids), retain=True))

    def _replies(self, message: Message) -> bytes:
        if message.topic == self._work:
            return self._answer(wire.decode_work(message.payload))
        control = wire.decode_control(message.payload)
        if not isinstance(control, wire.Ping):
            return b""
        pong = wire.Pong(hub=control.hub, seq=control.seq, hold_ms=0.0)
        return publish(self._report, wire.encode(pong), mid=next(self._mids))

    def _answer(self, work: wire.Work) -> bytes:
        tokens, timing = wire.Tokens(prompt=8, completion=1), wire.Timing()
        answer = wire.Answer(
            id=work.question.id or "",
            text="yes",
            finish="stop",
            node=self._name,
            bundle=BUNDLE,
            tokens=tokens,
            timing_ms=timing,
            attempt=work.attempt,
        )
        done = wire.Done(
            hub=work.hub,
            device=work.device,
            id=answer.id,
            attempt=work.attempt,
            bundle=BUNDLE,
            outcome="answered",
            tokens=tokens,
            timing_ms=timing,
        )
        to_device = publish(work.reply_to, wire.encode(answer), mid=next(self._mids))
        return to_device + publish(self._report, wire.encode(done), mid=next(self._mids))


def main() -> None:
    parser = argparse.ArgumentParser(description="Nodes that answer at once.")
    parser.add_argument("--broker", required=True)
    parser.add_argument("--nodes", type=int, default=3)
    options = parser.parse_args()
    stopping: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda got, _: stopping.append(got))
    nodes = [BareNode(options.broker, f"bare-{number}") for number in range(options.nodes)]
    poller = select.poll()
    for node in nodes:
        poller.register(node.client.socket, select.POLLIN)
    by_fileno = {node.client.socket.fileno(): node for node in nodes}
    while not stopping:
        for fileno, _ in poller.poll(LOOK_S * 1000):
            by_fileno[fileno].serve()
    for node in nodes:
        node.close()


if __name__ == "__main__":
    main()
