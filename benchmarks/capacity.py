"""How many questions a second go through one hub process? Steps of the rate, up to where it is no longer kept.

Askers (`asking.py`, an open loop) and nodes (`bare_nodes.py`) are processes of their own beside the hub and Mosquitto.
A rate is *kept* when every question is answered, at nearly the rate at which they were asked, and the p99 of the
latencies, counted from the intended times, is under P99_OVER_P50 times their p50. A queue that never empties also keeps
the two close together, so the p50 is bounded as well. Knows nothing of goals.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from asking import Asked
from round_trips import BIN, HERE, mosquitto, percentile, running, wait_for_state

from hub import wire

ASKERS: Final = 2
NODES: Final = 3
P99_OVER_P50: Final = 20.0
NEARLY: Final = 0.97
MOST_P50_MS: Final = 25.0  # some ten times what a question takes on its own
TRIES: Final = 3  # of a step: what else the machine has to do comes and goes
WARM_UP_S: Final = 2.0
STATES_TAKEN_PER_S: Final = 1000.0  # while a large fleet shows itself
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rate, as it went. `cpu_ms_*` are of one question, all askers together not counted."""

    offered_per_s: float
    achieved_per_s: float
    unanswered: int
    p50_ms: float
    p99_ms: float
    sent_late_p99_ms: float
    behind_s: float
    hub_cpu_ms: float
    nodes_cpu_ms: float
    hub_busy: float  # share of one core

    @property
    def fell_behind(self) -> bool:
        """Whether more was asked than could be answered."""
        return self.unanswered > 0 or self.achieved_per_s < NEARLY * self.offered_per_s

    @property
    def kept(self) -> bool:
        """Whether the hub kept up, and evenly."""
        return not self.fell_behind and self.p50_ms < MOST_P50_MS and self.p99_ms < P99_OVER_P50 * self.p50_ms


class Running(msgspec.Struct, frozen=True):
    """A fleet that is ready: where, and the processes that are watched."""

    broker: str
    hub_pid: int
    nodes_pid: int


def steps(rates: list[float], seconds: float) -> list[Step]:
    """Each rate in turn, up to the first that nobody can follow in TRIES; of each the try that held, or the last."""
    taken = []
    with bare_fleet() as fleet:
        step(fleet, rates[0], WARM_UP_S, seed=0)
        for rate in rates:
            for number in range(TRIES):
                last = step(fleet, rate, seconds, seed=number + 1)
                if last.kept:
                    break
            taken.append(last)
            if last.fell_behind:
                break
    return taken


def amid_states(nodes: int, per_minute: float, rate: float, seconds: float) -> Step:
    """A step at this rate while so many nodes publish state messages through the broker, as many a minute in all."""
    with bare_fleet(nodes, "--together", "--states-per-minute", str(per_minute)) as fleet:
        step(fleet, rate, WARM_UP_S + nodes / STATES_TAKEN_PER_S, seed=0)
        return step(fleet, rate, seconds, seed=1)


def with_records(rate: float, seconds: float, rounds: int) -> tuple[list[Step], list[Step]]:
    """Steps at one rate through a hub that keeps nothing and one that keeps records on disk, in turns."""
    with (
        tempfile.TemporaryDirectory() as folder,
        bare_fleet() as plain,
        bare_fleet(store=f"{folder}/records.sqlite") as keeping,
    ):
        for fleet in (plain, keeping):
            step(fleet, rate, WARM_UP_S, seed=0)
        taken = [[step(fleet, rate, seconds, seed=seed + 1) for fleet in (plain, keeping)] for seed in range(rounds)]
    return [pair[0] for pair in taken], [pair[1] for pair in taken]


@contextlib.contextmanager
def bare_fleet(nodes: int = NODES, *options: str, store: str | None = None) -> Iterator[Running]:
    """Mosquitto, a hub and the nodes."""
    served = ["--nodes", str(nodes), *options]
    kept = ["--store", store] if store is not None else []
    with (
        mosquitto() as broker,
        running(str(BIN / "edge-hub"), "serve", "--broker", broker, "--name", "bench", *kept) as hub_pid,
        running(sys.executable, str(HERE / "bare_nodes.py"), "--broker", broker, *served) as nodes_pid,
    ):
        wait_for_state(broker, wire.Topic("hub_state", "bench"))
        for number in {*range(min(nodes, NODES)), nodes - 1}:
            wait_for_state(broker, wire.Topic("node_state", f"bare-{number}"))
        yield Running(broker, hub_pid, nodes_pid)


def step(fleet: Running, rate: float, seconds: float, seed: int) -> Step:
    """Ask at this rate from ASKERS processes, and see what comes of it."""
    before = [cpu_s(pid) for pid in (fleet.hub_pid, fleet.nodes_pid)]
    command = [sys.executable, str(HERE / "asking.py"), "--broker", fleet.broker, "--rate", str(rate / ASKERS)]
    askers = [
        subprocess.Popen(
            [*command, "--seconds", str(seconds), "--seed", str(seed * ASKERS + number), "--device", f"asker-{number}"],
            stdout=subprocess.PIPE,
        )
        for number in range(ASKERS)
    ]
    asked = [msgspec.json.decode(asker.communicate()[0], type=Asked) for asker in askers]
    time.sleep(0.1)  # the last Done is on its way to the hub
    used = [cpu_s(pid) - known for pid, known in zip((fleet.hub_pid, fleet.nodes_pid), before, strict=True)]
    latencies_ms = [latency for one in asked for latency in one.latencies_ms]
    answered, intended = len(latencies_ms), sum(one.intended for one in asked)
    took_s = max(one.took_s for one in asked)
    return Step(
        offered_per_s=intended / seconds,
        achieved_per_s=answered / max(took_s, seconds),
        unanswered=intended - answered,
        p50_ms=percentile(latencies_ms, 0.5),
        p99_ms=percentile(latencies_ms, 0.99),
        sent_late_p99_ms=percentile([late for one in asked for late in one.sent_late_ms], 0.99),
        behind_s=max(took_s - seconds, 0.0),
        hub_busy=used[0] / max(took_s, seconds),
        hub_cpu_ms=used[0] * 1000 / max(answered, 1),
        nodes_cpu_ms=used[1] * 1000 / max(answered, 1),
    )


def cpu_s(pid: int) -> float:
    """Seconds that a process has computed so far, by `/proc`."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
