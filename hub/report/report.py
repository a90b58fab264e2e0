"""The fleet latency report: rows of ended questions become one value, and that value a table.

Pure: knows nothing of where rows are kept or what time it is. Latencies and stages are of answered questions;
attainment of the objective counts failed ones as missed. Percentiles are over all rows of the window, by linear
interpolation, and never averaged. A figure that the window has no data for is null.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hub.events import Row

_BAR_CHARS: Final = 40
_NO_NODE: Final = "(none)"


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What the report covers: ISO 8601 times in UTC, null where there is neither a row nor a limit."""

    since: str | None
    until: str | None
    seconds: float


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from the hub's receipt of a question to its end."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    max: float | None


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """Where the milliseconds went, on average."""

    network: float | None
    queue: float | None
    prefill: float | None
    decode: float | None


class FleetPart(msgspec.Struct, frozen=True, kw_only=True):
    """All questions of the window."""

    questions: int
    answered: int
    failed: int
    duplicates: int
    latency_ms: Latency
    stages_ms: Stages
    throughput_per_s: float | None
    slo_ms: float
    slo_attainment: float | None
    failures: dict[str, int]


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """Answered questions with `from_ms <= latency < to_ms`."""

    from_ms: float
    to_ms: float
    count: int


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The questions of one node or model; `name` is it."""

    name: str
    questions: int
    answered: int
    failed: int
    latency_ms: Latency
    stages_ms: Stages
    completion_tokens: int
    decode_tokens_per_s: float | None
    mape: float | None


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """How well delays were predicted: mean absolute error relative to what happened, of first attempts."""

    mape: float | None
    questions: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The `--json` document."""

    window: Window
    fleet: FleetPart
    histogram: tuple[Bar, ...]
    nodes: tuple[Part, ...]
    models: tuple[Part, ...]
    prediction: Prediction


def build_report(
    rows: Sequence[Row], *, slo_ms: float, since_s: float | None = None, until_s: float | None = None
) -> Report:
    """The report over `rows`, which ended between `since_s` and `until_s`; by default from first to last."""
    answered = [row for row in rows if row.outcome == "answered"]
    window = _window(rows, since_s, until_s)
    failures: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        if row.outcome != "answered":
            failures[row.outcome] += 1
    predicted = _predicted(answered)
    fleet = FleetPart(
        questions=len(rows),
        answered=len(answered),
        failed=len(rows) - len(answered),
        duplicates=sum(row.duplicates for row in rows),
        latency_ms=_latency(answered),
        stages_ms=_stages(answered),
        throughput_per_s=_ratio(len(answered), window.seconds),
        slo_ms=slo_ms,
        slo_attainment=_ratio(sum(row.total_ms <= slo_ms for row in answered), len(rows)),
        failures=dict(sorted(failures.items())),
    )
    return Report(
        window=window,
        fleet=fleet,
        histogram=_histogram(answered),
        nodes=_parts(rows, lambda row: row.node or _NO_NODE),
        models=_parts(rows, lambda row: row.model or _NO_NODE),
        prediction=Prediction(mape=_mape(predicted), questions=len(predicted)),
    )


def _window(rows: Sequence[Row], since_s: float | None, until_s: float | None) -> Window:
    if since_s is None and rows:
        since_s = min(row.wall_time_s - row.total_ms / 1000 for row in rows)
    if until_s is None and rows:
        until_s = max(row.wall_time_s for row in rows)
    seconds = until_s - since_s if since_s is not None and until_s is not None else 0.0
    return Window(since=_iso(since_s), until=_iso(until_s), seconds=round(max(seconds, 0.0), 3))


def _iso(wall_time_s: float | None) -> str | None:
    if wall_time_s is None:
        return None
    return datetime.datetime.fromtimestamp(wall_time_s, datetime.timezone.utc).isoformat(timespec="milliseconds")


def _latency(answered: Sequence[Row]) -> Latency:
    if not answered:
        return Latency(mean=None, p50=None, p90=None, p95=None, p99=None, max=None)
    totals = np.array([row.total_ms for row in answered])
    p50, p90, p95, p99 = (round(float(value), 3) for value in np.percentile(totals, [50, 90, 95, 99]))
    mean, most = round(float(totals.mean()), 3), round(float(totals.max()), 3)
    return Latency(mean=mean, p50=p50, p90=p90, p95=p95, p99=p99, max=most)


def _stages(answered: Sequence[Row]) -> Stages:
    if not answered:
        return Stages(network=None, queue=None, prefill=None, decode=None)
    table = np.array([(row.network_ms, row.queue_ms, row.prefill_ms, row.decode_ms) for row in answered])
    network, queue, prefill, decode = (round(float(value), 3) for value in table.mean(axis=0))
    return Stages(network=network, queue=queue, prefill=prefill, decode=decode)


def _parts(rows: Sequence[Row], name_of: Callable[[Row], str]) -> tuple[Part, ...]:
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[name_of(row)].append(row)
    return tuple(_part(name, group) for name, group in sorted(groups.items()))


def _part(name: str, rows: Sequence[Row]) -> Part:
    answered = [row for row in rows if row.outcome == "answered"]
    completion_tokens = sum(row.completion_tokens for row in answered)
    return Part(
        name=name,
        questions=len(rows),
        answered=len(answered),
        failed=len(rows) - len(answered),
        latency_ms=_latency(answered),
        stages_ms=_stages(answered),
        completion_tokens=completion_tokens,
        decode_tokens_per_s=_ratio(completion_tokens, sum(row.decode_ms for row in answered) / 1000),
        mape=_mape(_predicted(answered)),
    )


def _predicted(answered: Sequence[Row]) -> list[tuple[float, float]]:
    """(predicted, actual) of questions whose first attempt answered; a lost node is no error of the prediction."""
    return [
        (row.predicted_ms, row.total_ms)
        for row in answered
        if row.predicted_ms is not None and row.attempts == 1 and row.total_ms > 0
    ]


def _mape(pairs: Sequence[tuple[float, float]]) -> float | None:
    if not pairs:
        return None
    return round(sum(abs(predicted - actual) / actual for predicted, actual in pairs) / len(pairs), 4)


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole > 0 else None


def _histogram(answered: Sequence[Row]) -> tuple[Bar, ...]:
    """Bars of 1, 2, 5, 10, 20, 50 ... milliseconds, from the first to the last that is not empty."""
    if not answered:
        return ()
    totals = np.array([row.total_ms for row in answered])
    edges = [0.0, *(step * 10.0**power for power in range(9) for step in (1, 2, 5)), float("inf")]
    counts, _ = np.histogram(np.minimum(totals, 1e300), bins=edges)
    filled = np.flatnonzero(counts)
    bars = range(int(filled[0]), int(filled[-1]) + 1)
    return tuple(Bar(from_ms=edges[i], to_ms=min(edges[i + 1], 1e12), count=int(counts[i])) for i in bars)


# --- for a terminal -------------------------------------------------------------------------------------


def report_table(report: Report) -> Group:
    """The report as tables, or one line where the window is empty."""
    fleet, window = report.fleet, report.window
    if not fleet.questions:
        since = f" since {window.since}" if window.since else ""
        return Group(Text(f"No question has ended{since}: nothing to report."))
    failures = "".join(f", {count} {code}" for code, count in fleet.failures.items())
    head = Text(
        f"{fleet.questions} questions from {window.since} to {window.until}: {fleet.answered} answered, "
        f"{fleet.failed} failed{failures}; {fleet.duplicates} duplicates\n"
        f"{_number(fleet.throughput_per_s, 2)} answers/s; {_percent(fleet.slo_attainment)} of all questions "
        f"answered within {fleet.slo_ms:g} ms; delay predicted with a mean error of {_percent(report.prediction.mape)}"
    )
    whole = Table(title="delay, ms", title_justify="left")
    for name in ("mean", "p50", "p90", "p95", "p99", "max", "= network", "+ queue", "+ prefill", "+ decode"):
        whole.add_column(name, justify="right")
    stages = fleet.stages_ms
    whole.add_row(*_latency_cells(fleet.latency_ms), *_stage_cells(stages))
    return Group(
        head, whole, _histogram_table(report.histogram), _parts_table("node", report.nodes),
        _parts_table("model", report.models),
    )  # fmt: skip


def _histogram_table(bars: Sequence[Bar]) -> Table:
    table = Table(title="answered within", title_justify="left", show_header=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    most = max((bar.count for bar in bars), default=1)
    for bar in bars:
        length = max(round(bar.count / most * _BAR_CHARS), 1) if bar.count else 0
        table.add_row(f"{bar.from_ms:g} to {bar.to_ms:g} ms", str(bar.count), "█" * length)
    return table


def _parts_table(kind: str, parts: Sequence[Part]) -> Table:
    table = Table(title=f"by {kind}", title_justify="left")
    table.add_column(kind)
    for name in ("questions", "failed", "mean", "p50", "p95", "max", "network", "queue", "prefill", "decode"):
        table.add_column(name, justify="right")
    table.add_column("tokens/s", justify="right")
    table.add_column("error", justify="right")
    for part in parts:
        latency = part.latency_ms
        cells = [_number(value) for value in (latency.mean, latency.p50, latency.p95, latency.max)]
        speed = _number(part.decode_tokens_per_s)
        counts = (str(part.questions), str(part.failed))
        table.add_row(part.name, *counts, *cells, *_stage_cells(part.stages_ms), speed, _percent(part.mape))
    return table


def _latency_cells(latency: Latency) -> list[str]:
    return [_number(getattr(latency, name)) for name in Latency.__struct_fields__]


def _stage_cells(stages: Stages) -> list[str]:
    return [_number(getattr(stages, name)) for name in Stages.__struct_fields__]


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.1f}%"
