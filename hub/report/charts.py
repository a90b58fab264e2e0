"""Where do the bars, lines and ticks of the report's charts stand, on a drawing of a given size?

Takes figures and returns pixels. Does not know any markup, nor which colours there are: a bar and a line have a `kind`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import Final

import msgspec

from hub.report import words
from hub.report.distribution import Bar
from hub.report.figures import Latency
from hub.report.timeline import DAY_S, Timeline
from hub.report.timing import STAGES

_GLYPH: Final = 0.6  # width of a character in font sizes
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Size(msgspec.Struct, frozen=True):
    """Of a drawing, in pixels, and of its text."""

    width: int
    height: int
    font: int


WIDE: Final = Size(900, 300, 13)
NARROW: Final = Size(360, 260, 11)


class Tick(msgspec.Struct, frozen=True):
    """A value of an axis: how far along it is, and how it is written."""

    at: float
    text: str


class Block(msgspec.Struct, frozen=True):
    """A filled rectangle; `title` says what it stands for."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


class Line(msgspec.Struct, frozen=True):
    """A line through points, in as many parts as there are gaps; each part as an SVG path."""

    path: str
    kind: str


class Mark(msgspec.Struct, frozen=True):
    """A value that is marked across the chart, on its x or y axis: `at` is where, `row` keeps labels apart."""

    at: float
    text: str
    kind: str
    row: int = 0
    anchor: str = "start"


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A drawing. The axes enclose `left`, `top`, `right`, `bottom`."""

    size: Size
    left: float
    top: float
    right: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    blocks: tuple[Block, ...] = ()
    lines: tuple[Line, ...] = ()
    x_marks: tuple[Mark, ...] = ()
    y_marks: tuple[Mark, ...] = ()


def distribution_chart(bars: Sequence[Bar], latency: Latency, slo_ms: float, size: Size) -> Chart:
    """Counts by delay on a logarithmic axis, with the percentiles and the objective marked. At least one bar."""
    frame = _Frame(size, rows=3)
    low = math.log(max(bars[0].from_ms, bars[0].to_ms / 2))
    high = math.log(bars[-1].to_ms)
    scale = _Scale(low, high, frame.left, frame.right)
    most = max(bar.count for bar in bars)
    y = _Scale(0, most, frame.bottom, frame.top)
    blocks = []
    for bar in bars:
        x, end = scale.at(math.log(bar.from_ms) if bar.from_ms > 0 else low), scale.at(math.log(bar.to_ms))
        title = f"{words.size(bar.from_ms)} to {words.size(bar.to_ms)}: {bar.count:,}"
        blocks.append(_block(x + 0.5, y.at(bar.count), end - x - 1, frame.bottom, "bar", title))
    told = [
        ("p50", latency.p50, "p50"),
        ("p95", latency.p95, "p95"),
        (f"objective {words.size(slo_ms)}", slo_ms, "slo"),
    ]
    inside = sorted((value, text, kind) for text, value, kind in told if value and low <= math.log(value) <= high)
    marks = [
        _mark(scale.at(math.log(value)), text if kind == "slo" else f"{text} {words.size(value)}", kind, row, frame)
        for row, (value, text, kind) in enumerate(inside)  # from left to right: no line crosses another's label
    ]
    edges = [bar.from_ms for bar in bars if bar.from_ms > 0] + [bars[-1].to_ms]
    ticks = _spaced([Tick(scale.at(math.log(edge)), words.size(edge)) for edge in edges], size)
    return frame.chart(x_ticks=ticks, y_ticks=_count_ticks(y, most), blocks=tuple(blocks), x_marks=tuple(marks))


def stages_chart(timeline: Timeline, size: Size) -> Chart:
    """The mean of each stage in each slot, on top of each other. At least one slot with an answer."""
    frame = _Frame(size)
    heights = [
        [(name, max(getattr(slot.stages_ms, name) or 0.0, 0.0)) for name in STAGES] for slot in timeline.slots
    ]  # a stage may be negative by the clocks' rounding: it has no height then
    y = _Scale(0, max(sum(value for _, value in stack) for stack in heights) or 1.0, frame.bottom, frame.top)
    width = (frame.right - frame.left) / len(timeline.slots)
    blocks = []
    for number, (slot, stack) in enumerate(zip(timeline.slots, heights, strict=True)):
        below = 0.0
        for name, value in stack:
            if value > 0:
                x, gap = frame.left + number * width, min(1.0, width / 5)
                title = f"{clock(slot.start, timeline.slot_s)}, {name}: {words.number(value)} ms"
                block = _block(x + gap / 2, y.at(below + value), width - gap, y.at(below), name, title)
                blocks.append(block)
                below += value
    return frame.chart(x_ticks=_time_ticks(timeline, frame), y_ticks=_size_ticks(y), blocks=tuple(blocks))


def delays_chart(timeline: Timeline, slo_ms: float, size: Size) -> Chart:
    """Median and 95th percentile of each slot, and the objective where it is in sight. At least one with an answer."""
    frame = _Frame(size)
    most = max(slot.p95_ms or 0.0 for slot in timeline.slots) or 1.0
    y = _Scale(0, max(most, slo_ms) if slo_ms < 1.5 * most else most, frame.bottom, frame.top)
    width = (frame.right - frame.left) / len(timeline.slots)
    lines = []
    for kind in ("p95", "p50"):
        values = [getattr(slot, f"{kind}_ms") for slot in timeline.slots]
        points = [
            None if value is None else (round(frame.left + (number + 0.5) * width, 1), y.at(value))
            for number, value in enumerate(values)
        ]
        lines.append(Line(_path(points), kind))
    marks = (Mark(y.at(slo_ms), f"objective {words.size(slo_ms)}", "slo"),) if slo_ms <= y.high else ()
    ticks = _time_ticks(timeline, frame)
    return frame.chart(x_ticks=ticks, y_ticks=_size_ticks(y), lines=tuple(lines), y_marks=marks)


# --- axes -----------------------------------------------------------------------------------------------


class _Scale(msgspec.Struct, frozen=True):
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of `value`, to a tenth."""
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 1)


class _Frame:
    """Where the axes of a drawing are; `rows` of labels stand above it."""

    def __init__(self, size: Size, rows: int = 0) -> None:
        self.size = size
        self.left, self.right = size.font * 4.5, size.width - size.font * 0.5
        self.top, self.bottom = size.font * (1.0 + 1.4 * rows), size.height - size.font * 2.2

    def chart(
        self,
        *,
        x_ticks: tuple[Tick, ...],
        y_ticks: tuple[Tick, ...],
        blocks: tuple[Block, ...] = (),
        lines: tuple[Line, ...] = (),
        x_marks: tuple[Mark, ...] = (),
        y_marks: tuple[Mark, ...] = (),
    ) -> Chart:
        """The drawing with these on it."""
        return Chart(
            size=self.size, left=self.left, top=self.top, right=self.right, bottom=self.bottom,
            x_ticks=x_ticks, y_ticks=y_ticks, blocks=blocks, lines=lines, x_marks=x_marks, y_marks=y_marks,
        )  # fmt: skip


def _block(x: float, y: float, width: float, bottom: float, kind: str, title: str) -> Block:
    return Block(round(x, 1), y, round(max(width, 0.5), 1), round(bottom - y, 1), kind, title)


def _mark(at: float, text: str, kind: str, row: int, frame: _Frame) -> Mark:
    """Its label stands right of it, or left where there is no room."""
    fits = at + 4 + len(text) * frame.size.font * _GLYPH < frame.right
    return Mark(at, text, kind, row, "start" if fits else "end")


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """Through the points, with a gap where there is none; a point between two gaps is a dot.

    >>> _path([(0.0, 1.0), (2.0, 3.0), None, (6.0, 7.0)])
    'M0.0 1.0L2.0 3.0M6.0 7.0h0.1'
    """
    path, before = "", False
    for number, point in enumerate(points):
        if point is not None:
            alone = not before and (number + 1 == len(points) or points[number + 1] is None)
            path += f"{'L' if before else 'M'}{point[0]} {point[1]}{'h0.1' if alone else ''}"
        before = point is not None
    return path


def _spaced(ticks: Sequence[Tick], size: Size) -> tuple[Tick, ...]:
    """Only those whose texts keep clear of the one before."""
    shown: list[Tick] = []
    for tick in ticks:
        room = (len(tick.text) + len(shown[-1].text)) / 2 * size.font * _GLYPH + size.font if shown else 0
        is_inside = tick.at + len(tick.text) / 2 * size.font * _GLYPH <= size.width
        if is_inside and (not shown or tick.at - shown[-1].at >= room):
            shown.append(tick)
    return tuple(shown)


def _round_values(high: float, about: int) -> list[float]:
    """Round values from 0 up to `high`.

    >>> _round_values(107, 5)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    raw = high / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda one: abs(math.log(one / raw)))
    return [round(number * step, 9) for number in range(int(high / step + 1e-9) + 1)]


def _count_ticks(scale: _Scale, most: float) -> tuple[Tick, ...]:
    values = [value for value in _round_values(most, 4) if value == int(value)]
    return tuple(Tick(scale.at(value), f"{value:,.0f}") for value in values)


def _size_ticks(scale: _Scale) -> tuple[Tick, ...]:
    values = _round_values(scale.high, 4)
    return tuple(Tick(scale.at(value), words.size(value) if value else "0") for value in values)


def _time_ticks(timeline: Timeline, frame: _Frame) -> tuple[Tick, ...]:
    width = (frame.right - frame.left) / len(timeline.slots)
    starts = [slot.start for slot in timeline.slots]
    ticks = [
        Tick(round(frame.left + number * width, 1), clock(start, timeline.slot_s))
        for number, start in enumerate(starts)
    ]
    return _spaced(ticks, frame.size)


def clock(start: str, slot_s: float) -> str:
    """The beginning of a slot, as short as its width allows; midnight is the day.

    >>> clock("2026-11-26T14:30:00.000+00:00", 60.0), clock("2026-11-26T00:00:00.000+00:00", 3600.0)
    ('14:30', '26 Nov')
    >>> clock("2026-11-26T14:30:05.000+00:00", 5.0)
    '14:30:05'
    """
    when = datetime.datetime.fromisoformat(start)
    if slot_s >= DAY_S or (when.hour, when.minute, when.second) == (0, 0, 0):
        return f"{when.day} {_MONTHS[when.month - 1]}"
    return when.strftime("%H:%M:%S" if slot_s < 60 else "%H:%M")
