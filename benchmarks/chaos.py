"""Is every question answered, or failed for a reason, whatever dies on the way? Faults by a seeded schedule.

    python benchmarks/chaos.py [--seconds 1800] [--questions 10000] [--faults 150] [--hubs 3] [--seed N]

Real hubs, a real Mosquitto that keeps its state on disk, five nodes, and devices that ask whether or not they are
answered. Brokers, hubs and nodes are killed and stopped, links cut, held, deafened and slowed, messages replayed late
and out of order. Then a checker reads what was asked and what came back; docs/reliability.md says what it proves.
Prints tables, the story of each violation, and one line of JSON; exit code 1 if a promise was broken. Everything is on
loopback. A kept history is judged again with `--check FILE`.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

from faults import history, processes, questions, schedule
from faults.checker import Verdict, check
from faults.crowd import Crowd
from faults.gate import Gate, Gates
from faults.overhear import Overhearer
from faults.processes import Broker, Linked, Program
from faults.report import SHOWN, document, story, tables
from faults.strike import Striker
from rich.console import Console

ASKERS: Final = 10
PLAIN: Final = 4
# What an answer takes the no-op nodes, evenly spread. Each gives 16 at once, so that the slowest alone can take what
# all have left behind: nothing is promised to a fleet that is asked more than it can answer.
FASTEST_MS, SLOWEST_MS = 50.0, 400.0
QUIET_S: Final = 6.0  # after the last fault, so that its recovery shows
START_S: Final = 60.0


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long is asked")
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=150)
    parser.add_argument("--hubs", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seed", type=int, help="of questions, schedule and replays; drawn if not given")
    parser.add_argument("--bundle", type=Path, help="serve this bundle on some of the nodes, instead of no-op ones")
    parser.add_argument("--real", type=int, default=1, metavar="N", help="so many of the nodes, with --bundle")
    parser.add_argument("--history", type=Path, metavar="FILE", help="keep what happened here")
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a history that was kept; nothing is run")
    return parser.parse_args()


class Names(NamedTuple):
    """Everybody in a run."""

    hubs: list[str]
    nodes: list[str]
    devices: list[str]
    plain: list[str]  # those of the devices that know MQTT and nothing else
    real: list[str]  # those of the nodes that serve a model

    @classmethod
    def of(cls, hubs: int, nodes: int, real: int) -> Names:
        plain = [f"plain-{number}" for number in range(1, PLAIN + 1)]
        askers = [f"device-{number}" for number in range(1, ASKERS + 1)]
        named = [f"node-{number}" for number in range(1, nodes + 1)]
        return cls(
            [f"hub-{number}" for number in range(1, hubs + 1)],
            named,
            [*askers, *plain],
            plain,
            named[:real],
        )


def programs_of(
    names: Names, seed: int, folder: Path, gates: Gates, broker: Broker, bundle: Path | None
) -> dict[str, Linked]:
    """Hubs and nodes, not started yet. No-op nodes are unlike: which is how fast depends on the seed."""
    step_ms = (SLOWEST_MS - FASTEST_MS) / max(len(names.nodes) - 1, 1)
    paces_ms = [FASTEST_MS + step_ms * number for number in range(len(names.nodes))]
    random.Random(f"nodes {seed}").shuffle(paces_ms)
    linked = {name: processes.hub(name, folder, gates, broker, seed) for name in names.hubs}
    for name, answer_ms in zip(names.nodes, paces_ms, strict=True):
        served = bundle if name in names.real else None
        linked[name] = processes.node(name, folder, gates, broker, seed, bundle=served, answer_ms=answer_ms)
    return linked


def run(chosen: argparse.Namespace, seed: int, folder: Path) -> history.History:
    """One run: start everybody, ask and strike, wait for the last outcome, end everybody."""
    names = Names.of(chosen.hubs, chosen.nodes, chosen.real if chosen.bundle is not None else 0)
    log, gates = history.Log(), Gates()
    broker = Broker(folder)
    linked = programs_of(names, seed, folder, gates, broker, chosen.bundle)
    programs: dict[str, Program] = {"broker": broker, **linked}
    device_gates = {name: Gate(gates, broker.port, f"{seed} {name}") for name in names.devices}
    crowd = Crowd(log, device_gates, names.plain)
    overhearer = Overhearer(log, broker.url, seed)
    link_gates = {**{name: party.gate for name, party in linked.items()}, **device_gates}
    striker = Striker(log, programs, link_gates, overhearer)
    faults = schedule.draw(
        seed,
        seconds=chosen.seconds - QUIET_S,
        faults=chosen.faults,
        hubs=names.hubs,
        nodes=names.nodes,
        devices=names.devices,
    )
    asks = questions.draw(seed, seconds=chosen.seconds, questions=chosen.questions, devices=names.devices)
    try:
        for program in programs.values():
            program.start()
        crowd.start()
        overhearer.start()
        wait_until_ready(folder, crowd, overhearer, names)
        start_s = time.monotonic()
        striking = striker.run(faults, start_s)
        crowd.ask_all(asks, start_s)
        for thread in striking:
            thread.join()
        if striker.failure is not None:
            raise striker.failure
        wait_for_outcomes(log, len(asks), max(questions.DEADLINES_S) + 5.0)
        end_s = time.monotonic()
    finally:
        striker.end()
        crowd.close()
        overhearer.close()
        for program in reversed(programs.values()):
            program.end()
        gates.close()
    return log.history(seed=seed, start_s=start_s, end_s=end_s, hubs=names.hubs, nodes=names.nodes, real=names.real)


def wait_until_ready(folder: Path, crowd: Crowd, overhearer: Overhearer, names: Names) -> None:
    """Until everybody has a connection, hubs take questions and nodes are there. Raises SystemExit."""
    signs = {**dict.fromkeys(names.hubs, "takes questions"), **dict.fromkeys(names.nodes, "is at")}
    end = time.monotonic() + START_S
    while True:
        silent = [name for name, sign in signs.items() if sign not in (folder / f"{name}.log").read_text()]
        if not silent and crowd.is_open and overhearer.is_open:
            return
        if time.monotonic() > end:
            who = ", ".join(silent) or "a device"
            raise SystemExit(f"{who} did not come up within {START_S:.0f} s: the logs are in {folder}")
        threading.Event().wait(0.05)


def wait_for_outcomes(log: history.Log, asked: int, limit_s: float) -> None:
    """Until each question has its outcome, or none is to be expected any more: what is missing is a violation."""
    end = time.monotonic() + limit_s
    while log.ended < asked and time.monotonic() < end:
        threading.Event().wait(0.05)


def show(happened: history.History) -> Verdict:
    """Tables, stories, and the line of JSON."""
    verdict = check(happened)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables(happened, verdict):
        console.print(table)
    for violation in verdict.violations[:SHOWN]:
        print("\n".join(story(happened, violation)))
    print(json.dumps(document(happened, verdict)))
    return verdict


def main() -> int:
    chosen = options()
    if chosen.check is not None:
        return 1 if show(history.read(chosen.check)).violations else 0
    seed = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    folder = Path(tempfile.mkdtemp(prefix="edgefleet-chaos-"))
    print(f"seed {seed}, logs in {folder}", file=sys.stderr, flush=True)
    logging.basicConfig(filename=folder / "chaos.log", level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    happened = run(chosen, seed, folder)
    history.write(happened, chosen.history or folder / "history.json")
    if show(happened).violations:
        print(f"seed {seed}: logs and history.json are kept in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
