"""How long does it take to choose among many nodes?

    python benchmarks/bench_router.py

Fills the hub's own core with nodes through its own messages, answers its pings, and times decisions over unlike
questions. Prints a table, then one JSON line.
"""

from __future__ import annotations

import json
import random
import time
from statistics import median

from rich.console import Console
from rich.table import Table

from hub import events, wire
from hub.core import Core
from hub.router import Features, choose

SIZES = (10, 1000, 5000)
DECISIONS = 300


def filled(nodes: int, draw: random.Random) -> tuple[Core, float]:
    """A core that knows `nodes` unlike nodes at unlike distances, and the time that it is there."""
    core = Core("bench", new_id=lambda: "drawn", settle_s=0.0)
    now = 1000.0
    core.handle(events.LinkOpened(), now)
    for number in range(nodes):
        name = f"n{number:05d}"
        served = wire.ServedBundle(
            bundle=f"bundle-{number % 7}",
            model="model",
            task="text-generation",
            context=4096,
            fixed_ms=draw.uniform(1, 20),
            prefill_ms_per_token=draw.uniform(0.1, 2),
            decode_ms_per_token=draw.uniform(2, 60),
        )
        state = wire.NodeState(epoch=1, status="ready", bundles=(served,))
        topic = wire.Topic("node_state", name)
        effects = core.handle(events.MessageReceived(topic=str(topic), payload=wire.encode(state)), now)
        pings = [effect.control for effect in effects if isinstance(effect, events.PublishControl)]
        for ping in pings:
            assert isinstance(ping, wire.Ping)
            pong = wire.Pong(hub="bench", seq=ping.seq, hold_ms=0.1)
            message = events.MessageReceived(topic=str(wire.Topic("report", name)), payload=wire.encode(pong))
            core.handle(message, now + draw.uniform(0.001, 0.2))
    return core, now + 0.3


def times_ms(nodes: int) -> list[float]:
    """Milliseconds of each of DECISIONS choices."""
    draw = random.Random(nodes)
    core, now = filled(nodes, draw)
    taken = []
    for number in range(DECISIONS):
        question = Features(
            device="d",
            id=str(number),
            attempt=1,
            task="text-generation",
            model=None,
            chars=draw.randrange(10, 2000),
            max_tokens=None,
            expected_tokens=draw.uniform(4, 300),
        )
        started = time.perf_counter()
        decision = choose(question, core.fleet, now + number * 0.001)
        taken.append((time.perf_counter() - started) * 1000)
        assert decision.chosen is not None
    return taken


def main() -> None:
    table = Table(title=f"choosing a node, milliseconds, {DECISIONS} decisions each")
    for column in ("nodes", "p50", "p99"):
        table.add_column(column, justify="right")
    rows = {}
    for nodes in SIZES:
        taken = sorted(times_ms(nodes))
        p50, p99 = median(taken), taken[int(0.99 * len(taken))]
        table.add_row(f"{nodes:,}", f"{p50:.3f}", f"{p99:.3f}")
        rows[str(nodes)] = {"p50_ms": p50, "p99_ms": p99}
    Console().print(table)
    print(json.dumps({"benchmark": "router", "nodes": rows}))


if __name__ == "__main__":
    main()
