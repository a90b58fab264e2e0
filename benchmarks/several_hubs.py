"""What several hubs lose against one by not knowing all: delays at the asker, at one load, on one Mosquitto.

    python benchmarks/several_hubs.py [--nodes 6] [--answer-ms 200] [--load 0.7] [--seconds 25]

One hub; three hubs; three that do not hear each other's Work and know of each other only what nodes report. Nodes
answer one question at a time; questions come at random times (Poisson, the same in each run). Prints a table, then one
JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from round_trips import mosquitto, running

from hub import wire
from hub.ask import Asker
from hub.core import Core
from hub.nodes import fetch_fleet
from hub.service import HubService

HERE = Path(__file__).resolve().parent
RUNS = (("one hub", 1, False), ("three hubs", 3, False), ("three deaf hubs", 3, True))


def serve(broker: str, name: str, *, deaf: bool) -> None:
    """Be a hub until SIGTERM."""
    if deaf:
        Core._sent_elsewhere = lambda *_: None  # type: ignore[method-assign]
    hub = HubService(broker, name, None)
    signal.signal(signal.SIGTERM, lambda *_: hub.stop())
    hub.run()


@contextlib.contextmanager
def fleet(broker: str, options: argparse.Namespace, hubs: int, *, deaf: bool) -> Iterator[None]:
    """Hub and node processes that are ready."""
    with contextlib.ExitStack() as stack:
        for number in range(hubs):
            command = [sys.executable, str(Path(__file__)), "--serve", f"h{number}", "--broker", broker]
            stack.enter_context(running(*command, *(["--deaf"] if deaf else [])))
        for number in range(options.nodes):
            command = [sys.executable, str(HERE / "noop_node.py"), "--broker", broker, "--node", f"n{number}"]
            stack.enter_context(
                running(*command, "--answer-ms", str(options.answer_ms), "--parallel", "1", "--no-direct")
            )
        end = time.monotonic() + 60
        while not is_ready(broker, hubs, options.nodes):
            assert time.monotonic() < end, "the fleet did not come up"
        yield


def is_ready(broker: str, hubs: int, nodes: int) -> bool:
    found = fetch_fleet(broker)
    ready = [sum(each.status == "ready" for each in group.values()) for group in (found.hubs, found.nodes)]
    return ready == [hubs, nodes]


def measure(broker: str, options: argparse.Namespace) -> list[float]:
    """The delay of each question, sorted; what is asked before the first one counts is to warm up."""
    draw = random.Random(1)
    rate_per_s = options.load * options.nodes * 1000 / options.answer_ms
    with Asker(broker, "bench") as asker:
        for _ in range(3):
            for future in [asker.submit(wire.Question(question="Why?")) for _ in range(2 * options.nodes)]:
                future.result()
        at = time.monotonic()
        end, futures = at + options.seconds, []
        while (at := at + draw.expovariate(rate_per_s)) < end:
            time.sleep(max(at - time.monotonic(), 0.0))
            futures.append(asker.submit(wire.Question(question="Why?")))
        outcomes = [future.result() for future in futures]
    assert all(isinstance(outcome.reply, wire.Answer) for outcome in outcomes)
    return sorted(outcome.total_ms for outcome in outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description="What several hubs lose against one.")
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--answer-ms", type=float, default=200.0)
    parser.add_argument("--load", type=float, default=0.7, help="of what the nodes can answer")
    parser.add_argument("--seconds", type=float, default=25.0)
    for hidden in ("--serve", "--broker"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--deaf", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.broker, options.serve, deaf=options.deaf)
        return
    table = Table("hubs", "questions", "mean ms", "p50 ms", "p99 ms", title=f"load {options.load}")
    result = {}
    for name, hubs, deaf in RUNS:
        with mosquitto() as broker, fleet(broker, options, hubs, deaf=deaf):
            times = measure(broker, options)
        figures = statistics.mean(times), statistics.median(times), times[int(len(times) * 0.99)]
        table.add_row(name, str(len(times)), *(f"{figure:.0f}" for figure in figures))
        result[name] = dict(zip(("mean_ms", "p50_ms", "p99_ms"), figures, strict=True))
    Console().print(table)
    print(json.dumps({"benchmark": "several hubs", "load": options.load, "cpus": os.cpu_count(), **result}))


if __name__ == "__main__":
    main()
