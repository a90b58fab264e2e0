"""The report over a million questions: how long each part of it takes, and the whole command over a store on disk.

    python benchmarks/bench_report.py [--questions 1000000] [--devices 500] [--rounds 5]

Forty nodes, three models, `--devices` devices, a day; delays are log-normal and slower in the evening, one in a
hundred fails, one in fifty has a second attempt. Warms up once, takes medians. The command is a process of its own and
reads an SQLite file that is filled before. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
import numpy as np

from hub.report.distribution import histogram
from hub.report.filter import Filter
from hub.report.groups import Counted, Objective
from hub.report.history import History, Missing, Names
from hub.report.report import build_report, compare_with
from hub.report.timeline import heat_map, timeline
from hub.report.timing import timing_of
from hub.store.database import Database
from hub.store.migrate import bring_up_to_date
from hub.store.tables import questions

START_S: Final = 1_764_000_000.0
DAY_S: Final = 86400.0
OBJECTIVE: Final = Objective(1000.0, 0.99)


def drawn(count: int, devices: int, *, seed: int, slower: float = 1.0) -> History:
    """A day of questions to forty nodes."""
    draw = np.random.default_rng(seed)
    ends_s = np.sort(START_S + draw.random(count) * DAY_S)
    evening = 1.0 + 0.5 * (np.sin((ends_s - START_S) / DAY_S * 2 * np.pi) > 0.5)
    stages = {
        "network_ms": draw.lognormal(2.3, 0.6, count),
        "queue_ms": draw.lognormal(2.0, 1.2, count) * evening,
        "prefill_ms": draw.lognormal(3.4, 0.4, count),
        "decode_ms": draw.lognormal(4.4, 0.7, count) * slower,
        "overhead_ms": draw.lognormal(0.5, 0.3, count),
    }
    total_ms = np.sum(list(stages.values()), axis=0)
    outcome = np.where(draw.random(count) < 0.01, draw.integers(1, 3, count), 0)
    second = np.where(draw.random(count) < 0.02, draw.integers(1, 3, count), 0)
    told = draw.random(count) < 0.5
    nothing = np.zeros(count, np.int64)
    promises = {f"predicted_{name}": column * draw.lognormal(0.0, 0.2, count) for name, column in stages.items()}
    promises.pop("predicted_overhead_ms")
    return History.of(
        {
            "row": np.arange(count),
            "wall_time_s": ends_s,
            "id": _names("q", np.arange(count), count),
            "device": _names("device", draw.integers(0, devices, count), devices),
            "hub": _names("hub", nothing, 1),
            "node": _names("node", np.minimum(draw.geometric(0.08, count), 40) - 1, 40),
            "bundle": _names("bundle", nothing, 1),
            "model": _names("model", draw.integers(0, 3, count), 3),
            "task": _names("task", nothing, 1),
            "outcome": Names(outcome.astype(np.int32), ("answered", "deadline", "overloaded")),
            "second": Names(second.astype(np.int32), ("", "hedge", "silence")),
            "second_won": (second > 0) & (draw.random(count) < 0.3),
            "local": nothing > 0,
            "partial": nothing > 0,
            "attempts": 1 + (second > 0),
            "duplicates": nothing,
            "question_bytes": nothing + 200,
            "answer_bytes": nothing + 300,
            "prompt_tokens": nothing + 40,
            "cached_tokens": nothing,
            "completion_tokens": draw.integers(1, 60, count),
            "predicted_ms": np.sum(list(promises.values()), axis=0),
            **promises,
            **stages,
            "total_ms": total_ms,
            "asker_ms": np.where(told, total_ms + draw.lognormal(1.0, 0.5, count), np.nan),
            "asker_first_ms": np.where(told, total_ms * 0.4, np.nan),
        }
    )


def fill(store: str, history: History) -> None:
    """Keep the questions in a new store, without decisions."""
    database = Database(store, writing=True)
    bring_up_to_date(database)
    columns = [name for name in history.columns() if name != "row"]
    numbers: Counter[str] = Counter()  # of each node's answers: a report looks for gaps in them
    with database.engine.begin() as connection:
        for start in range(0, len(history), 20_000):
            some = history.where(np.arange(start, min(start + 20_000, len(history))))
            values = [_values(some.columns()[name]) for name in columns]
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
            for row in rows:
                numbers[row["node"]] += 1
                row |= {"node_life": 1, "node_number": numbers[row["node"]]}
            connection.execute(questions.insert(), rows)
    database.engine.dispose()


def _values(column: Any) -> list[Any]:
    if isinstance(column, Names):
        return [column.names[code] for code in column.codes.tolist()]
    return [None if value != value else value for value in column.tolist()]


def command(store: str, form: str) -> Callable[[], object]:
    """`edge-hub report` over the whole store."""
    line = [str(Path(sys.executable).parent / "edge-hub"), "report", "--store", store, "--format", form]
    return lambda: subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def _names(kind: str, codes: np.ndarray, count: int) -> Names:
    return Names(codes.astype(np.int32), tuple(f"{kind}-{number}" for number in range(count)))


def took_ms(run: Callable[[], object], rounds: int) -> float:
    """The median of some runs, after one that does not count."""
    run()
    taken = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        run()
        taken.append((time.perf_counter() - start_s) * 1000)
    return median(taken)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    where = Filter()
    history = drawn(options.questions, options.devices, seed=1)
    earlier = drawn(options.questions, options.devices, seed=2, slower=0.9)
    timing = timing_of(history, OBJECTIVE.slo_ms)
    counted = Counted(timing)
    report = build_report(timing, where, OBJECTIVE, missing=Missing())
    parts: dict[str, Callable[[], object]] = {
        "delays": lambda: timing_of(history, OBJECTIVE.slo_ms),
        "columns, buckets": lambda: Counted(timing),
        "by node": lambda: counted.tally(history.node),
        "by model": lambda: counted.tally(history.model),
        "by device": lambda: counted.tally(history.device),
        "histogram": lambda: histogram(timing.delay_ms),
        "time line": lambda: timeline(timing),
        "heat map": lambda: heat_map(timing),
        "whole report": lambda: build_report(timing_of(history, OBJECTIVE.slo_ms), where, OBJECTIVE, missing=Missing()),
        "as JSON": lambda: msgspec.json.encode(report),
        "comparison": lambda: compare_with(timing, earlier, where, OBJECTIVE, np.random.default_rng(0)),
    }
    figures = {name: took_ms(run, options.rounds) for name, run in parts.items()}
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        store = str(Path(folder) / "fleet.sqlite")
        fill(store, history)
        for form in ("json", "html"):
            figures[f"the command, {form}"] = took_ms(command(store, form), options.rounds)
    print(f"{options.questions:,} questions of {options.devices:,} devices\n")
    print("\n".join(f"{name:20}{taken_ms:10.1f} ms" for name, taken_ms in figures.items()))
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({"machine": machine, "questions": options.questions, "ms": figures}))


if __name__ == "__main__":
    main()
