"""What was measured, as a reader sees it: a row for each contender, and a row for each goal.

Takes values and returns lines. Knows nothing of how they came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from goals import Row


class Column(NamedTuple):
    """One measure of the table, of which the median over the rounds is shown, times `scale`."""

    heading: str
    field: str
    form: str
    scale: float = 1.0

    @property
    def width(self) -> int:
        """Characters of the column."""
        return max(len(self.heading), 6) + 2


COLUMNS: Final = (
    Column("MB", "weights_bytes", ".0f", 1e-6),
    Column("decode tok/s", "decode_tokens_per_s", ".1f"),
    Column("of floor", "roofline_fraction", ".2f"),
    Column("KL", "kl", ".4f"),
    Column("checked KL", "checked_kl", ".4f"),
    Column("same top %", "same_top_percent", ".1f"),
    Column("first ms", "ttft_ms", ".0f"),
    Column("cold ms", "cold_ms", ".0f"),
    Column("warm ms", "warm_ms", ".0f"),
    Column("prefill tok/s", "prefill_tokens_per_s", ".0f"),
    Column("4 at once tok/s", "together_tokens_per_s", ".0f"),
    Column("start ms", "start_ms", ".0f"),
    Column("load ms", "load_ms", ".0f"),
    Column("peak MB", "peak_rss_bytes", ".0f", 1e-6),
    Column("sentence ms", "p50_ms", ".2f"),
    Column("cosine", "cosine", ".4f"),
)


def cell(column: Column, figures: dict[str, Any]) -> str:
    """What stands in a contender's row."""
    value = figures.get(column.field)
    if value is None:
        return ""
    return format(column.scale * (median(value) if isinstance(value, list) else value), column.form)


def table(document: dict[str, Any]) -> list[str]:
    """A row for each contender, also for those that could not be had."""
    shown = [column for column in COLUMNS if any(column.field in one for one in document["figures"].values())]
    lines = [" " * 20 + "".join(f"{column.heading:>{column.width}}" for column in shown)]
    for name, figures in document["figures"].items():
        cells = "".join(f"{cell(column, figures):>{column.width}}" for column in shown)
        lines.append(f"{name:20}{cells}  {figures.get('answer', '')}".rstrip())
    return lines + [f"{name:20}  not measured: {reason}" for name, reason in document["unavailable"].items()]


def goal_lines(rows: Sequence[Row]) -> list[str]:
    """The second table."""
    wide = max((len(row.measure) for row in rows), default=0) + 2
    lines = [f"{'measure':{wide}}{'here':>10}{'peer':>10}{'ratio':>8}  {'goal':14}holds"]
    for row in rows:
        peer, ratio = ("" if one is None else f"{one:.4g}" for one in (row.peer, row.ratio))
        lines.append(
            f"{row.measure:{wide}}{row.here:>10.4g}{peer:>10}{ratio:>8}  {row.goal:14}{'yes' if row.holds else 'NO'}"
        )
    return lines
