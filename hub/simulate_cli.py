"""`edge-hub simulate`: what would this fleet have done with these questions, under this policy and others?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.errors import SimulationError
from hub.real_range import RealRange

if TYPE_CHECKING:
    from rich.table import Table

    from hub.simulator.simulate import LoadResult

POLICY_NAMES = (
    *("least-delay", "least-delay-question", "least-delay-fleet", "random", "round-robin", "least-inflight"),
    *("p2c", "ewma-latency", "peak-ewma", "prequal", "oracle"),
)


@click.command(epilog="Example: edge-hub simulate --trace short --fleet benchmarks/fleets/unlike-40.toml --load 0.7")
@click.option(
    "--trace",
    required=True,
    metavar="F.csv|conversation|short",
    help="A CSV file with the columns of Azure's LLM traces, or drawn: its percentiles, or short questions.",
)
@click.option("--rtt", type=click.Path(path_type=Path), metavar="F.txt", help="Square matrix of round trips, ms.")
@click.option("--fleet", required=True, type=click.Path(path_type=Path), metavar="F.toml", help="See docs/routing.md.")
@click.option("--load", "loads", multiple=True, required=True, type=RealRange(0, 10, min_open=True),
              metavar="X", help="Share of what the fleet can answer; more than once.")  # fmt: skip
@click.option("--policy", "policies", multiple=True, type=click.Choice(POLICY_NAMES), metavar="P",
              help="More than once; default: all.")  # fmt: skip
@click.option("--objective", type=click.Choice(["question", "fleet"]), default="fleet", show_default=True,
              help="What least-delay stands for.")  # fmt: skip
@click.option("--questions", type=click.IntRange(1, 10_000_000), metavar="N", help="Default: the trace's.")
@click.option("--lengths", type=click.Choice(["unknown", "known"]), default="unknown", show_default=True,
              help="Whether max_tokens tells the router how long an answer will be.")  # fmt: skip
@click.option("--hub-site", type=click.IntRange(0), default=0, show_default=True, help="The hub's row of the matrix.")
@click.option("--slo-ms", type=RealRange(0, min_open=True), default=10_000.0, show_default=True)
@click.option("--deadline-ms", type=RealRange(1, 86_400_000), default=600_000.0, show_default=True,
              help="Below 30,000 it is minded: nodes drop what is late, least-delay refuses what will be.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32), default=0, show_default=True)
@click.option("--plot", type=click.Path(path_type=Path), metavar="F.svg", help="Draw the policies side by side.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def simulate(
    trace: str, rtt: Path | None, fleet: Path, loads: tuple[float, ...], policies: tuple[str, ...], objective: str,
    questions: int | None, lengths: str, hub_site: int, slo_ms: float, deadline_ms: float, seed: int,
    plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Drive the hub's own core with a trace, in virtual time, and others' policies beside it."""
    from hub.simulator.fleet_file import read_fleet, read_round_trips
    from hub.simulator.plot import write_plot
    from hub.simulator.simulate import Plan
    from hub.simulator.simulate import simulate as run
    from hub.simulator.trace import open_trace

    try:
        opened = open_trace(trace, seed)
        plan = Plan(
            trace=opened if questions is None else opened.of(questions),
            fleet=read_fleet(fleet),
            matrix=None if rtt is None else read_round_trips(rtt),
            hub_site=hub_site,
            loads=loads,
            policies=policies or POLICY_NAMES,
            objective=objective,
            slo_ms=slo_ms,
            deadline_ms=deadline_ms,
            lengths_known=lengths == "known",
            seed=seed,
        )
        results = list(run(plan, _tell))
        if plot is not None:
            write_plot(results, plot)
    except SimulationError as error:
        click.echo(f"edge-hub: {error}", err=True)
        sys.exit(1)
    _print(results, as_json=as_json)


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(text, err=True)


def _print(results: Sequence[LoadResult], *, as_json: bool) -> None:
    import msgspec
    from rich.console import Console

    if as_json:
        documents = [msgspec.to_builtins(one) for one in results]
        click.echo(msgspec.json.encode([{k: v for k, v in one.items() if k != "curves"} for one in documents]))
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    for one in results:
        console.print(table_of(one))


def table_of(result: LoadResult) -> Table:
    """The policies at one load, as a person reads them."""
    from rich.table import Table

    table = Table(title=f"load {result.load:g} ({result.rate_per_s:.3g} questions/s)", title_justify="left")
    table.add_column("policy")
    for name in ("mean ms", "p50", "p95", "p99", "in SLO", "over oracle", "failed", "refused", "off by"):
        table.add_column(name, justify="right")
    for name, one in result.policies.items():
        table.add_row(
            name,
            *(_shown(value, ".0f") for value in (one.mean_ms, one.p50_ms, one.p95_ms, one.p99_ms)),
            f"{one.slo_attainment:.1%}",
            _shown(one.over_oracle, ".2f"),
            str(one.failed),
            str(one.refused),
            _shown(one.prediction_mape, ".0%"),
        )
    return table


def _shown(value: float | None, form: str) -> Any:
    return "" if value is None else format(value, form)
