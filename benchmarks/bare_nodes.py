"""Nodes that answer at once and cost next to nothing themselves, so that a hub can be brought to its limit beside them.

    python benchmarks/bare_nodes.py --broker mqtt://127.0.0.1:1883 --nodes 3

They speak the wire and are no agents: no queue, no repeats, no reconnecting (`noop_node.py` is the real service over an
answerer that does nothing). All of them live in this process, each on a connection of its own or all on one, which may
publish states on and on, as a large fleet does.
"""

from __future__ import annotations

import argparse
import itertools
import select
import signal
import time
from typing import Any, Final

import msgspec
from bare_mqtt import BareClient, Message, publish
from noop_node import BUNDLE, Noop

from hub import wire

LOOK_S: Final = 0.2  # for the wish to end
TELL_S: Final = 0.005  # for states that are due


class BareNodes:
    """Those named `names`, on one connection. `states_per_minute` of all of them together are published, retained."""

    def __init__(self, broker: str, names: list[str], states_per_minute: float = 0.0) -> None:
        self._names = names
        self._per_s = states_per_minute / 60
        self._mids = (number % 65_535 + 1 for number in itertools.count())
        kinds: tuple[wire.TopicKind, ...] = ("work", "control")
        alone = len(names) == 1
        topics = [str(wire.Topic(kind, names[0])) if alone else wire.Topic.all_of(kind) for kind in kinds]
        self.client = BareClient(broker, f"node-{names[0]}", topics)
        for name in names:
            self._tell(name, "ready", [Noop.served])
        self._since_s = time.monotonic()
        self._told = 0

    def serve(self) -> None:
        """Answer all that has come, and write it in one go."""
        replies = b"".join(self._replies(message) for message in self.client.receive(0.0))
        if replies:
            self.client.send(replies)

    def tell_on(self) -> None:
        """Publish the states that are due: of each node in turn, at a cost that changes."""
        while self._told < (time.monotonic() - self._since_s) * self._per_s:
            self._told += 1
            served = msgspec.structs.replace(Noop.served, decode_ms_per_token=0.01 + self._told % 7 / 1000)
            self._tell(self._names[self._told % len(self._names)], "ready", [served])

    def close(self) -> None:
        """Leave."""
        for name in self._names:
            self._tell(name, "offline", [])
        self.client.close()

    def _tell(self, name: str, status: Any, bundles: list[wire.ServedBundle]) -> None:
        state = wire.NodeState(epoch=1, status=status, bundles=tuple(bundles))
        topic = str(wire.Topic("node_state", name))
        self.client.send(publish(topic, wire.encode(state), mid=next(self._mids), retain=True))

    def _replies(self, message: Message) -> bytes:
        topic = wire.Topic.parse(message.topic.decode())
        assert topic is not None
        if topic.kind == "work":
            return self._answer(topic.name, wire.decode_work(message.payload))
        control = wire.decode_control(message.payload)
        if not isinstance(control, wire.Ping):
            return b""
        pong = wire.Pong(hub=control.hub, seq=control.seq, hold_ms=0.0)
        return publish(str(wire.Topic("report", topic.name)), wire.encode(pong), mid=next(self._mids))

    def _answer(self, name: str, work: wire.Work) -> bytes:
        tokens, timing = wire.Tokens(prompt=8, completion=1), wire.Timing()
        answer = wire.Answer(
            id=work.question.id or "",
            text="yes",
            finish="stop",
            node=name,
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
        return to_device + publish(str(wire.Topic("report", name)), wire.encode(done), mid=next(self._mids))


def main() -> None:
    parser = argparse.ArgumentParser(description="Nodes that answer at once.")
    parser.add_argument("--broker", required=True)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--together", action="store_true", help="all on one connection")
    parser.add_argument("--states-per-minute", type=float, default=0.0)
    options = parser.parse_args()
    stopping: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda got, _: stopping.append(got))
    names = [f"bare-{number}" for number in range(options.nodes)]
    groups = [names] if options.together else [[name] for name in names]
    connected = [BareNodes(options.broker, group, options.states_per_minute / len(groups)) for group in groups]
    poller = select.poll()
    for each in connected:
        poller.register(each.client.socket, select.POLLIN)
    by_fileno = {each.client.socket.fileno(): each for each in connected}
    while not stopping:
        for fileno, _ in poller.poll((TELL_S if options.states_per_minute else LOOK_S) * 1000):
            by_fileno[fileno].serve()
        for each in connected:
            each.tell_on()
    for each in connected:
        each.close()


if __name__ == "__main__":
    main()
