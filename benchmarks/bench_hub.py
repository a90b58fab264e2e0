"""The hub: what it adds to a round trip, how many questions it routes, how it copes with 5,000 nodes. In one run.

    python benchmarks/bench_hub.py [--questions 500] [--seconds 5] [--rate 250]...

    round trips  direct and routed, in turns, over Mosquitto and the embedded broker (`round_trips.py`)
    capacity     questions a second through one hub process, open loop, at rising rates (`capacity.py`)
    records      delays through a hub that keeps records on disk beside one that keeps none, in turns
    choosing     decisions among 10, 1,000 and 5,000 nodes under both objectives, and state messages a second
                 (`choosing.py`)

Prints tables, the goals, and one line of JSON. The load of the machine before and after is in it: all processes of the
capacity share its cores with whatever else runs there.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from statistics import median
from typing import Any, Final, get_args

import msgspec
from capacity import P99_OVER_P50, Step, amid_states, steps, with_records
from choosing import decisions_ms, states_a_second
from goals import Goal, judge
from round_trips import percentile, round_trips
from table import goal_lines

from hub.objective import Objective

SIZES: Final = (10, 1000, 5000)
RATES: Final = (250.0, 500.0, 750.0, 1000.0, 1100.0, 1250.0, 1500.0, 2000.0)
STATES: Final = 20_000  # a minute
AMID_PER_S: Final = 100.0  # questions beside them
KEPT_PER_S: Final = 250.0  # questions whose records are kept
KEPT_ROUNDS: Final = 5
GOALS: Final = (
    *(
        Goal(
            f"through hub and no-op node against direct, p50 (ms), {broker}",
            *((broker, "routed_p50_ms"), (broker, "direct_p50_ms"), "at most", 2.0),
        )
        for broker in ("mosquitto", "embedded")
    ),
    Goal("questions a second through one hub, kept", ("capacity", "kept_per_s"), None, "at least", 1000.0),
    Goal("their p99 over their p50", ("capacity", "p99_over_p50"), None, "at most", P99_OVER_P50),
    *(
        Goal(f"a decision among 5,000 nodes, {name}, p50 (ms)", (f"5000 {name}", "p50_ms"), None, "at most", 5.0)
        for name in get_args(Objective)
    ),
    Goal("state messages a minute from 5,000 nodes, core alone", ("states", "per_minute"), None, "at least", 20_000.0),
    Goal("of a core, for 20,000 states a minute through Mosquitto", ("amid states", "hub_busy"), None, "at most", 1.0),
    Goal(
        "delay with records on disk against none, p50 (ms)",
        *(("keeping", "p50_ms"), ("keeping nothing", "p50_ms"), "at most", 1.25),
    ),
    Goal("questions without an answer meanwhile", ("amid states", "unanswered"), None, "at most", 0.0),
)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; by part, its figures."""
    figures: dict[str, dict[str, Any]] = {**round_trips(options.questions)}
    for nodes in SIZES:
        for objective in get_args(Objective):
            taken = decisions_ms(nodes, objective)
            figures[f"{nodes} {objective}"] = {"p50_ms": median(taken), "p99_ms": percentile(taken, 0.99)}
    figures["states"] = {"per_minute": 60 * states_a_second(SIZES[-1], STATES)}
    amid = amid_states(SIZES[-1], STATES, AMID_PER_S, options.seconds)
    figures["amid states"] = msgspec.to_builtins(amid)
    both = with_records(KEPT_PER_S, options.seconds, KEPT_ROUNDS)
    for name, kept_steps in zip(("keeping nothing", "keeping"), both, strict=True):
        figures[name] = {
            "steps": [msgspec.to_builtins(one) for one in kept_steps],
            "p50_ms": [one.p50_ms for one in kept_steps],
            "p99_ms": [one.p99_ms for one in kept_steps],
        }
    taken_steps = steps(options.rate or list(RATES), options.seconds)
    figures["capacity"] = {"steps": [msgspec.to_builtins(one) for one in taken_steps], **best(taken_steps)}
    return figures


def best(taken: Sequence[Step]) -> dict[str, float]:
    """The highest rate that was kept; 0 where none was."""
    kept = [one for one in taken if one.kept]
    if not kept:
        return {"kept_per_s": 0.0, "p99_over_p50": taken[-1].p99_ms / taken[-1].p50_ms}
    return {"kept_per_s": kept[-1].achieved_per_s, "p99_over_p50": kept[-1].p99_ms / kept[-1].p50_ms}


# --- what is printed ------------------------------------------------------------------------------------


def tables(figures: dict[str, Any]) -> list[str]:
    """A row for each broker, size of the fleet, and rate."""
    lines = [f"{'round trip, ms':22}{'direct p50':>12}{'p99':>8}{'routed p50':>12}{'p99':>8}"]
    for name in ("mosquitto", "embedded", "paho_default_sockets"):
        cells = [
            f"{median(figures[name][field]):{width}.2f}" if field in figures[name] else ""
            for field, width in (
                ("direct_p50_ms", 12),
                ("direct_p99_ms", 8),
                ("routed_p50_ms", 12),
                ("routed_p99_ms", 8),
            )
        ]
        lines.append(f"{name:22}{''.join(cells)}")
    lines += ["", f"{'nodes, objective':22}{'p50 ms':>12}{'p99':>8}"]
    for nodes in SIZES:
        for objective in get_args(Objective):
            row = figures[f"{nodes} {objective}"]
            lines.append(f"{f'{nodes:,} {objective}':22}{row['p50_ms']:12.3f}{row['p99_ms']:8.3f}")
    lines += ["", "among 5,000 nodes that publish 20,000 states a minute:", *step_lines([figures["amid states"]])]
    for name in ("keeping nothing", "keeping"):
        lines += ["", f"a hub {name}:", *step_lines(figures[name]["steps"])]
    return [*lines, "", *step_lines(figures["capacity"]["steps"])]


def step_lines(taken: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each rate that was offered."""
    fields = (
        ("offered/s", "offered_per_s", ".0f"),
        ("achieved/s", "achieved_per_s", ".0f"),
        ("unanswered", "unanswered", "d"),
        ("p50 ms", "p50_ms", ".1f"),
        ("p99 ms", "p99_ms", ".1f"),
        ("sent late p99 ms", "sent_late_p99_ms", ".1f"),
        ("hub busy", "hub_busy", ".2f"),
        ("hub CPU ms", "hub_cpu_ms", ".2f"),
        ("nodes CPU ms", "nodes_cpu_ms", ".2f"),
    )
    lines = ["".join(f"{heading:>{max(len(heading), 8) + 2}}" for heading, _, _ in fields)]
    lines.extend(
        "".join(f"{format(one[field], form):>{max(len(heading), 8) + 2}}" for heading, field, form in fields)
        for one in taken
    )
    return lines


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=500, help="round trips of each kind")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each rate")
    parser.add_argument("--rate", type=float, action="append", help="questions a second, once for each step")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    figures = run(options)
    rows = judge(figures, GOALS)
    print("\n".join([*tables(figures), "", *goal_lines(rows), ""]))
    document = {"machine": {"cores": os.cpu_count(), "load": [load_before, os.getloadavg()[0]]}, "figures": figures}
    print(json.dumps(document | {"goals": [row._asdict() for row in rows]}))


if __name__ == "__main__":
    main()
