"""The report as a page to send around: one self-contained file without script, laid out by `page.html.jinja`.

The template escapes all text: names of devices, ids and words of errors are whatever somebody wrote. Does not know how
any figure was computed, nor where the marks of a chart go (`charts.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from hub.errors import ReportError
from hub.report import words
from hub.report.charts import NARROW, WIDE, Chart, Size, clock, delays_chart, distribution_chart, stages_chart
from hub.report.figures import Budget, Figures, Part
from hub.report.report import Report
from hub.report.slowest import Slow
from hub.report.table import busiest
from hub.report.timeline import HeatMap
from hub.report.timing import STAGES

TEMPLATE: Final = Path(__file__).with_name("page.html.jinja")
MOST_DEVICES: Final = 30
SHADES: Final = 7  # of the heat map; the style sheet has as many


class Cell(msgspec.Struct, frozen=True):
    """A figure, and the lines that stand small beneath it."""

    text: str
    notes: tuple[str, ...] = ()


class HeatCell(msgspec.Struct, frozen=True):
    """One node in one slot: the shade is a number from 0, None where it answered nothing."""

    text: str
    title: str
    shade: int | None


class HeatLine(msgspec.Struct, frozen=True):
    """One node in all slots."""

    node: str
    cells: tuple[HeatCell, ...]


class Table(msgspec.Struct, frozen=True):
    """The nodes, models or devices; `of` is how many there are."""

    kind: str
    parts: tuple[Part, ...]
    rows: tuple[tuple[Cell, ...], ...]
    of: int


COLUMNS: Final = (
    *("asked", "failed", "in time", "answers/s", "mean", "p50", "p90", "p95", "p99", "max", "first text"),
    *STAGES,
    *("tokens/s", "error"),
)


def page(report: Report) -> str:
    """The HTML of `report`, whole. Raises ReportError where jinja2 is not installed."""
    try:
        import jinja2
    except ImportError as error:
        raise ReportError(f"jinja2 cannot be imported ({error}): install edgefleet[hub]") from None
    shown = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shown.filters["number"], shown.filters["percent"], shown.filters["size"] = words.number, words.percent, words.size
    html = shown.from_string(TEMPLATE.read_text("utf-8")).render(_shown(report))
    # A name that is not UTF-8 may come as lone surrogates, which no page can hold.
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(report: Report) -> dict[str, Any]:
    """What the template speaks of."""
    slots = report.timeline.slots
    return {
        "report": report,
        "words": words,
        "stages": STAGES,
        "columns": COLUMNS,
        "distribution": _both_sizes(
            lambda size: distribution_chart(report.histogram, report.fleet.latency_ms, report.fleet.slo_ms, size),
            bool(report.histogram),
        ),
        "stages_over_time": _both_sizes(lambda size: stages_chart(report.timeline, size), bool(report.histogram)),
        "delays_over_time": _both_sizes(
            lambda size: delays_chart(report.timeline, report.fleet.slo_ms, size), bool(report.histogram)
        ),
        "slot_names": [clock(slot.start, report.timeline.slot_s) for slot in slots],
        "heat_heads": [clock(start, report.heat_map.slot_s) for start in report.heat_map.starts],
        "heat_lines": heat_lines(report.heat_map),
        "heat_scale": heat_scale(report.heat_map),
        "tables": tables(report),
        "used": used(report.fleet.budget),
        "slowest": [(one, slow_parts(one)) for one in report.slowest],
    }


def _both_sizes(draw: Callable[[Size], Chart], is_there: bool) -> list[tuple[str, Chart]]:
    """A chart for a wide and for a narrow screen; none where nothing was answered."""
    return [("wide", draw(WIDE)), ("narrow", draw(NARROW))] if is_there else []


def tables(report: Report) -> list[Table]:
    """Nodes, models, and the busiest devices."""
    found = []
    for kind, parts in (("node", report.nodes), ("model", report.models), ("device", report.devices)):
        shown = tuple(busiest(parts, MOST_DEVICES) if kind == "device" else parts)
        found.append(Table(kind, shown, tuple(cells(part) for part in shown), len(parts)))
    return found


def cells(figures: Figures) -> tuple[Cell, ...]:
    """One row of a table, in the order of `COLUMNS`; beneath the mean of a stage stands its 95th percentile."""
    latency, number = figures.latency_ms, words.number
    codes = tuple(f"{count:,} {code}" for code, count in figures.failures.items())
    stages = []
    for name in STAGES:
        mean, p95 = getattr(figures.stages_ms, name), getattr(figures.stages_p95_ms, name)
        stages.append(Cell(number(mean), _beneath(p95)))
    return (
        Cell(f"{figures.questions:,}"),
        Cell(f"{figures.failed:,}", codes),
        Cell(words.percent(figures.slo_attainment)),
        Cell(words.rate(figures.throughput_per_s), (f"{words.rate(figures.goodput_per_s)} in time",)),
        *(Cell(number(getattr(latency, name))) for name in ("mean", "p50", "p90", "p95", "p99", "max")),
        Cell(number(figures.first_token_ms.mean), _beneath(figures.first_token_ms.p95)),
        *stages,
        Cell(number(figures.decode_tokens_per_s)),
        Cell(words.percent(figures.prediction.mape)),
    )


def _beneath(p95: float | None) -> tuple[str, ...]:
    return () if p95 is None else (words.number(p95),)


def used(budget: Budget) -> float:
    """How much of the error budget is used, in per cent, for a bar that ends at 100.

    >>> used(Budget(target=0.9, allowed=10.0, missed=4, left=0.6))
    40.0
    """
    if budget.left is None:
        return 100.0 if budget.missed else 0.0
    return round(min(max(1 - budget.left, 0.0), 1.0) * 100, 2)


def slow_parts(one: Slow) -> list[tuple[str, float]]:
    """The stages of a slow question, each with its share of the delay in per cent."""
    taken = [(name, max(getattr(one.stages_ms, name) or 0.0, 0.0)) for name in STAGES]
    whole = sum(value for _, value in taken) or 1.0
    return [(name, round(value / whole * 100, 2)) for name, value in taken if value > 0]


def heat_lines(heat: HeatMap) -> list[HeatLine]:
    """The heat map, cell by cell."""
    low, high = _heat_range(heat)
    lines = []
    for row in heat.nodes:
        found = []
        for start, answers, p95_ms in zip(heat.starts, row.answers, row.p95_ms, strict=True):
            if p95_ms is None:
                found.append(HeatCell("", f"{row.node}, {clock(start, heat.slot_s)}: no answer", None))
                continue
            title = f"{row.node}, {clock(start, heat.slot_s)}: p95 {words.size(p95_ms)} of {answers:,} answers"
            found.append(HeatCell(short(p95_ms), title, shade(p95_ms, low, high)))
        lines.append(HeatLine(row.node, tuple(found)))
    return lines


def heat_scale(heat: HeatMap) -> list[str]:
    """What each shade stands for: where it begins."""
    low, high = _heat_range(heat)
    if not low:
        return []
    return [words.size(float(f"{low * (high / low) ** (step / SHADES):.2g}")) for step in range(SHADES)]


def _heat_range(heat: HeatMap) -> tuple[float, float]:
    values = [max(value, 0.1) for row in heat.nodes for value in row.p95_ms if value is not None]
    return (min(values), max(values)) if values else (0.0, 0.0)


def shade(value: float, low: float, high: float) -> int:
    """Equal ratios are equal steps.

    >>> [shade(value, 10.0, 1000.0) for value in (10.0, 100.0, 1000.0)], shade(5.0, 5.0, 5.0)
    ([0, 3, 6], 0)
    """
    if high <= low:
        return 0
    return min(int(math.log(max(value, low) / low) / math.log(high / low) * SHADES), SHADES - 1)


def short(milliseconds: float) -> str:
    """At most four characters, for a cell.

    >>> short(4.2), short(471.3), short(1240.0), short(75_000.0), short(7_200_000.0)
    ('4.2', '471', '1.2s', '75s', '2.0h')
    """
    for unit_ms, unit in ((3_600_000, "h"), (1_000, "s")):
        if milliseconds >= 0.9995 * unit_ms:
            value = milliseconds / unit_ms
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return f"{milliseconds:.1f}" if milliseconds < 9.95 else f"{milliseconds:.0f}"
