"""`edge-hub report`: how long did the fleet's answers take, where did the time go, and what has changed?"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hub.errors import HubError, ReportError
from hub.real_range import RealRange
from hub.report.moment import duration_s, moment_s

if TYPE_CHECKING:
    from hub.events import Row
    from hub.report.filter import Filter
    from hub.report.groups import Objective
    from hub.report.history import Missing
    from hub.report.report import Report
    from hub.report.timing import Timing

FORMATS = ("table", "json", "csv", "html", "parquet")
SEED = 0  # of the comparison's resamples: two reports over the same questions agree


def _window(since: str | None, until: str | None) -> tuple[float | None, float | None]:
    """The wall times of a window that ends now, where it has a beginning and no end is given. Raises UsageError."""
    now_s = time.time()  # one for both, so that the window is as long as it says
    try:
        since_s, until_s = (None if text is None else moment_s(text, now_s) for text in (since, until))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if since_s is not None and until_s is None:
        until_s = now_s
    if since_s is not None and until_s is not None and since_s > until_s:
        raise click.UsageError("--since is after --until: the window is empty; exchange them")
    return since_s, until_s


def _check_apart(since_s: float | None, until_s: float | None, against_s: float) -> None:
    """Raise UsageError where there is no window to compare with, or one that shares questions with this one."""
    if since_s is None or until_s is None:
        raise click.UsageError("--against needs --since: it compares windows of the same length")
    if against_s < until_s - since_s:
        raise click.UsageError(
            "--against is shorter than the window, so both would count the same questions: give a longer one"
        )


def _duration(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """The seconds of a text such as 1h; a usage error for anything else."""
    try:
        return None if text is None else duration_s(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _share(_: click.Context, __: click.Parameter, text: str) -> float:
    """The share of a text such as 99.5%; a usage error for anything else."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not text.endswith("%") or not 0 < share <= 1:
        raise click.BadParameter(f"{text!r} is no share: write one above 0% and up to 100%, such as 99.5%")
    return share


@click.command(epilog="Example: edge-hub report --store fleet.sqlite --since 1h --against 1d")
@click.option("--store", required=True, metavar="URL", help="Where the records are: a file, or an SQLAlchemy URL.")
@click.option("--since", metavar="WHEN",
              help="Only what ended in the last 90s, 1h, 7d ..., or since an ISO 8601 time (UTC).")  # fmt: skip
@click.option("--until", metavar="WHEN", help="Only what ended before that.")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only what this node ended; repeatable.")
@click.option("--device", "devices", multiple=True, metavar="NAME", help="Only what this device asked; repeatable.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only what this model was asked; repeatable.")
@click.option("--outcome", "outcomes", multiple=True, metavar="CODE",
              help="Only what became this: answered, deadline, no_node ...; repeatable.")  # fmt: skip
@click.option("--against", callback=_duration, metavar="DURATION",
              help="Compare with the same window so much earlier, such as 1d or 7d; needs --since.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="F", help="Default: print it.")
@click.option("--slo-ms", type=RealRange(min=0, min_open=True), default=1000.0, show_default=True,
              help="An answer is in time within so many milliseconds.")  # fmt: skip
@click.option("--slo-target", callback=_share, default="99%", show_default=True, metavar="SHARE",
              help="The share of all questions that is to be answered in time.")  # fmt: skip
@click.option("--slowest", type=click.IntRange(0, 1000), default=5, show_default=True, metavar="N",
              help="Tell of the N slowest questions why they were slow; in tables, JSON and HTML.")  # fmt: skip
def report(
    store: str, since: str | None, until: str | None, nodes: tuple[str, ...], devices: tuple[str, ...],
    models: tuple[str, ...], outcomes: tuple[str, ...], against: float | None, form: str, output: Path | None,
    slo_ms: float, slo_target: float, slowest: int,
) -> None:  # fmt: skip
    """Tell how long the fleet's answers took, and where the time went."""
    from hub.report.filter import Filter
    from hub.report.groups import Objective
    from hub.report.timing import timing_of
    from hub.store.reading import read_history

    since_s, until_s = _window(since, until)
    if against is not None:
        _check_apart(since_s, until_s, against)
    if form == "parquet" and output is None and _is_terminal():
        raise click.UsageError("Parquet is not for a terminal: add --output F.parquet")
    if form == "parquet" and against is not None:
        raise click.UsageError(
            "Parquet holds the questions of one window: leave out --against, or take another --format"
        )
    where = Filter(since_s=since_s, until_s=until_s, nodes=nodes, devices=devices, models=models, outcomes=outcomes)
    objective = Objective(slo_ms, slo_target)
    try:
        history, missing = read_history(store, where, details=form == "parquet")
        timing = timing_of(history, slo_ms)
        if form == "parquet":
            from hub.report.columns_parquet import questions_parquet

            _write(questions_parquet(timing), output)
        else:
            _show(_made(store, timing, missing, where, objective, against, slowest), form, output)
    except HubError as error:
        click.echo(f"edge-hub: {error}", err=True)
        sys.exit(1)


def _made(
    store: str,
    timing: Timing,
    missing: Missing,
    where: Filter,
    objective: Objective,
    against_s: float | None,
    slowest: int,
) -> Report:
    """The whole report, with what has to be read once more for it."""
    import numpy as np

    from hub.report.report import build_report, compare_with
    from hub.report.slowest import slow, slowest_of
    from hub.store.reading import read_history

    places = slowest_of(timing, slowest)
    rows = _rows(store, [int(timing.history.row[timing.at[place]]) for place in places])
    comparison = None
    if against_s is not None:
        earlier = where.earlier(against_s)
        comparison = compare_with(
            timing, read_history(store, earlier)[0], earlier, objective, np.random.default_rng(SEED)
        )
    told = slow(timing, places, rows)
    return build_report(timing, where, objective, missing=missing, slowest=told, against=comparison)


def _show(report: Report, form: str, output: Path | None) -> None:
    if form == "json":
        import msgspec

        _write(msgspec.json.encode(report) + b"\n", output)
    elif form == "csv":
        from hub.report.rows_csv import report_csv

        _write(report_csv(report).encode(), output)
    elif form == "html":
        from hub.report.page import page

        _write(page(report).encode(), output)
    else:
        from rich.console import Console

        from hub.report.table import WIDTH, report_table

        text = io.StringIO()
        is_shown = output is None and _is_terminal()
        console = Console(width=None if is_shown else WIDTH, markup=False, file=None if output is None else text)
        console.print(report_table(report, console.width))
        if output is not None:
            _write(text.getvalue().encode(), output)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _write(document: bytes, output: Path | None) -> None:
    """To standard output or into a file. Raises ReportError."""
    if output is None:
        click.echo(document, nl=False)
        return
    try:
        output.write_bytes(document)
    except OSError as error:
        raise ReportError(
            f"{output} cannot be written ({error.strerror or error}): give --output another path"
        ) from None


def _rows(store: str, numbers: list[int]) -> dict[int, Row]:
    """The whole rows of these numbers, but for those that are gone since. Raises StoreError."""
    from hub.store.reading import read_rows

    if not numbers:
        return {}
    rows = read_rows(store, numbers)
    if len(rows) == len(numbers):
        return dict(zip(numbers, rows, strict=True))
    return {number: row for number in numbers for row in read_rows(store, [number])}
