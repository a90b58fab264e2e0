"""The report for a terminal: sentences and tables.

Does not know how any figure was computed. Names are shown as they are, but for control characters, which a terminal
would obey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hub.narrow import tables_that_fit
from hub.report import words
from hub.report.against import Comparison
from hub.report.distribution import Bar
from hub.report.figures import Figures, Part
from hub.report.report import Report
from hub.report.slowest import Slow
from hub.report.timing import STAGES
from hub.report.words import number, percent

MOST_DEVICES: Final = 20
WIDTH: Final = 160  # where it is printed into a file
_BAR_CHARS: Final = 40  # at most; beside it stand spans and counts
_BESIDE_BAR_CHARS: Final = 40
_SHORT: Final = ("access", "netw.", "queue", "prefill", "decode", "rest")  # the stages, of what is narrow


def report_table(report: Report, width: int = WIDTH) -> Group:
    """The report as tables no wider than `width` characters, or one line where the window is empty."""
    if not report.fleet.questions:
        return Group(Text("\n".join([words.nothing(report), *words.missing(report.missing)])))
    parts: list[RenderableType] = [
        Text(printable("\n".join(words.counts(report)))),
        *tables_that_fit(_delays(report), width),
        _histogram(report.histogram, min(max(width - _BESIDE_BAR_CHARS, 1), _BAR_CHARS)),
        *tables_that_fit(_parts("node", report.nodes), width),
        *tables_that_fit(_parts("model", report.models), width),
        *tables_that_fit(_parts("device", busiest(report.devices, MOST_DEVICES), len(report.devices)), width),
    ]
    if report.against is not None:
        parts.append(Text(printable(words.compared(report.against))))
        parts += tables_that_fit(_comparison(report.against), width)
    parts += [_slow(one) for one in report.slowest]
    return Group(*parts)


def busiest(parts: Sequence[Part], most: int) -> list[Part]:
    """Those with the most questions, by name."""
    ranked = sorted(parts, key=lambda part: (-part.questions, part.name))
    return sorted(ranked[:most], key=lambda part: part.name)


def printable(text: str) -> str:
    """Without what a terminal would take for an order.

    >>> printable("a\\x1b[2Jb\\n")
    'a?[2Jb\\n'
    """
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def _delays(report: Report) -> Table:
    fleet = report.fleet
    table = Table(title=f"delay, ms (percentiles within {report.percentile_error:.1%})", title_justify="left")
    table.add_column("")
    for name in (
        "mean",
        "p50",
        "p90",
        "p95",
        "p99",
        "max",
        "first text",
        "= access",
        *(f"+ {each}" for each in STAGES[1:]),
    ):
        table.add_column(name, justify="right")
    latency, first = fleet.latency_ms, fleet.first_token_ms
    means = [number(getattr(fleet.stages_ms, name)) for name in STAGES]
    whole = [number(getattr(latency, name)) for name in type(latency).__struct_fields__]
    table.add_row("fleet", *whole, number(first.mean), *means)
    tails = [number(getattr(fleet.stages_p95_ms, name)) for name in STAGES]
    table.add_row("p95 of each", *[""] * len(whole), number(first.p95), *tails)
    return table


def _histogram(bars: Sequence[Bar], longest: int) -> Table:
    table = Table(title="answered within", title_justify="left", show_header=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    most = max((bar.count for bar in bars), default=1)
    for bar in bars:
        length = max(round(bar.count / most * longest), 1) if bar.count else 0
        table.add_row(f"{words.size(bar.from_ms)} to {words.size(bar.to_ms)}", f"{bar.count:,}", "█" * length)
    return table


def _parts(kind: str, parts: Sequence[Part], of: int | None = None) -> Table:
    shown = f", the busiest {len(parts):,} of {of:,}" if of is not None and of > len(parts) else ""
    table = Table(title=f"by {kind}{shown}", title_justify="left")
    table.add_column(kind, overflow="fold", min_width=12)
    for name in ("asked", "failed", "in SLO", "mean", "p50", "p95", "max", "first", *_SHORT, "tok/s", "error"):
        table.add_column(name, justify="right")
    for part in parts:
        table.add_row(printable(part.name), *_cells(part))
    return table


def _cells(figures: Figures) -> list[str]:
    latency = figures.latency_ms
    return [
        *(f"{figures.questions:,}", f"{figures.failed:,}", percent(figures.slo_attainment)),
        *(number(value) for value in (latency.mean, latency.p50, latency.p95, latency.max)),
        number(figures.first_token_ms.mean),
        *(number(getattr(figures.stages_ms, name)) for name in STAGES),
        *(number(figures.decode_tokens_per_s), percent(figures.prediction.mape)),
    ]


def _comparison(comparison: Comparison) -> Table:
    table = Table(title="what has changed, ms", title_justify="left")
    for name in ("", "verdict"):
        table.add_column(name, overflow="fold")
    for name in ("answers", "mean", "p50", "p95"):
        table.add_column(name, justify="right")
    table.add_column("most in")
    for one in comparison.groups:
        changes = [words.change(each) for each in (one.mean, one.p50, one.p95)]
        verdict = ", ".join(one.what) or "same"
        answers = f"{one.answers_before:,} → {one.answers_after:,}"
        table.add_row(printable(words.group_name(one)), verdict, answers, *changes, words.blamed(one))
    return table


def _slow(one: Slow) -> Text:
    by = f" by {one.node}" if one.node else ""
    clock = "the asker's clock" if one.told else "the hub's clock"
    stages = " + ".join(f"{name} {number(getattr(one.stages_ms, name))}" for name in STAGES)
    head = f"slow: {one.device}/{one.id}, answered{by} after {number(one.delay_ms)} ms by {clock}: {one.why}"
    return Text(printable("\n  ".join([head, f"= {stages}", *one.decisions])))
