"""Where do the marks of the accuracy-latency plot stand, on a drawing of a given size?

`plot` turns dots (milliseconds, percent) into a frame, ticks, marks and labels in pixels. Labels overlap neither each
other nor a mark: one for which there is no room is left out. Does not know what is drawn with it, nor any markup.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

LARGEST: Final = 1e12  # what is further from zero than this has no place on a plot
_EQUAL: Final = 1e-9  # values within this share of their size are one
_GLYPH: Final = 0.6  # width of a character in font sizes: above the mean of common sans-serif fonts
_BOLD: Final = 1.12  # how much wider the chosen one's label is, which is bold
_MARK_PX: Final = 9.0  # half of the square around a mark that stays free of labels
_RINGS_PX: Final = (12, 20, 32, 46, 62, 80, 100, 124)  # how far a label may stand from its mark
_DIRECTIONS: Final = tuple((math.cos(turn * math.pi / 6), math.sin(turn * math.pi / 6)) for turn in range(12))
_CROSSING_PX: Final = 40  # covering a line is as bad as standing this much further off

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Dot(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be shown: `y`% at `x` ms, the bar from `low` to `high`. `chosen` stands out, `hollow` was refused."""

    name: str
    x: float
    y: float
    low: float
    high: float
    chosen: bool = False
    hollow: bool = False
    stage: bool = False

    @property
    def has_place(self) -> bool:
        """Whether it can be drawn at all."""
        return all(abs(value) <= LARGEST for value in (self.x, self.y, self.low, self.high))  # NaN is not


class Tick(msgspec.Struct, frozen=True):
    """A value of an axis: how far along it is, in pixels of the drawing, and how it is written."""

    at: float
    text: str


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A name beside its mark: the text's anchor and middle, and the `leader` line from the mark if it is not near."""

    text: str
    x: float
    y: float
    anchor: str
    box: Box
    leader: Box | None = None


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A dot on the drawing. `label` is None where there is no room, or where another mark says the same."""

    dot: Dot
    x: float
    y: float
    y_low: float
    y_high: float
    label: Label | None = None


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A drawing of `width` times `height` pixels. `frame` is what the axes enclose, `floor_y` the budget's line."""

    width: int
    height: int
    font: int
    frame: Box
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    floor_y: float
    floor_label: Label


class Scale(msgspec.Struct, frozen=True):
    """The straight line that takes `low` to pixel `start` and `high` to `end`.

    >>> Scale(0, 10, 100, 200).at(2.5)
    125.0
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of `value`, to a tenth."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def plot(dots: Sequence[Dot], floor: float, *, width: int, height: int, font: int = 12) -> Plot:
    """The drawing of `dots` (one or more, each with a place) and of the accuracy `floor` that the budget sets."""
    frame = (font * 4.0, font * 2.0, width - font * 1.0, height - font * 4.0)
    xs, ys = [dot.x for dot in dots], [value for dot in dots for value in (dot.y, dot.low, dot.high)]
    x = Scale(*extent(xs, lowest=0), frame[0], frame[2])
    y = Scale(*extent([*ys, floor], lowest=0, highest=100), frame[3], frame[1])
    marks = [Mark(dot=dot, x=x.at(dot.x), y=y.at(dot.y), y_low=y.at(dot.low), y_high=y.at(dot.high)) for dot in dots]
    floor_y = y.at(floor)
    floor_label = _floor_label(floor, floor_y, frame, font)
    return Plot(
        width=width,
        height=height,
        font=font,
        frame=frame,
        x_ticks=tuple(Tick(x.at(value), text) for value, text in ticks(x.low, x.high, width // 90)),
        y_ticks=tuple(Tick(y.at(value), text) for value, text in ticks(y.low, y.high, height // 60)),
        marks=_labelled(marks, floor_label, floor_y, frame, font),
        floor_y=floor_y,
        floor_label=floor_label,
    )


def extent(values: Sequence[float], *, lowest: float = -math.inf, highest: float = math.inf) -> tuple[float, float]:
    """Where an axis begins and ends: a little beyond the values, but not beyond `lowest` and `highest` unless they are.

    It begins at `lowest` where the smallest value is as near to that as to the largest: then lengths can be compared.

    >>> extent([10, 100], lowest=0)
    (0, 107.2)
    >>> extent([90, 100], lowest=0, highest=100)
    (89.2, 100)
    >>> extent([50, 50])
    (45.0, 55.0)
    >>> extent([0, 0], lowest=0)
    (0, 1.0)
    """
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    is_one = high - low <= _EQUAL * max(size, 1e-3)
    room = (high - low) * 0.08 if not is_one else size / 10 if size > 1e-6 else 1.0
    start, end = low - room, high + room
    if low >= lowest:
        start = lowest if low - lowest <= high - low else max(lowest, start)
    return start, min(highest, end) if high <= highest else end


def ticks(low: float, high: float, about: int) -> list[tuple[float, str]]:
    """Round values in [low, high], `about` so many, and how they are written.

    >>> ticks(0, 107, 5)
    [(0.0, '0'), (20.0, '20'), (40.0, '40'), (60.0, '60'), (80.0, '80'), (100.0, '100')]
    >>> [text for _, text in ticks(44.1, 45.3, 4)]
    ['44.2', '44.4', '44.6', '44.8', '45.0', '45.2']
    """
    raw = (high - low) / max(about, 1)
    power = math.floor(math.log10(raw))
    step = min((factor * 10.0**power for factor in (1, 2, 5, 10)), key=lambda one: abs(math.log(one / raw)))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    values = [round(number * step, decimals) for number in numbers]
    return [
        (value, f"{value:.6g}" if abs(value) >= 1e6 or decimals > 6 else f"{value:,.{decimals}f}") for value in values
    ]


def text_width(text: str, font: int) -> float:
    """About how wide a text is, in pixels; a wide (East Asian) character counts as two.

    >>> text_width("int8", 10), text_width("\\u8a9e", 10)
    (24.0, 12.0)
    """
    return round(_columns(text) * font * _GLYPH, 1)


def shortened(text: str, columns: int) -> str:
    """A text of at most so many columns: the end says most, so the middle is left out.

    >>> shortened("fp32 after prune wanda:0.5", 16)
    'fp32 af…anda:0.5'
    >>> shortened("int8", 16)
    'int8'
    """
    if _columns(text) <= columns:
        return text
    room, head, tail = columns - 1, "", ""
    for character in text:
        if _columns(head + character) > room // 2:
            break
        head += character
    for character in reversed(text):
        if _columns(head + character + tail) > room:
            break
        tail = character + tail
    return f"{head}…{tail}"


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share more than an edge.

    >>> overlap((0, 0, 2, 2), (1, 1, 3, 3)), overlap((0, 0, 2, 2), (2, 0, 4, 2))
    (True, False)
    """
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _floor_label(floor: float, floor_y: float, frame: Box, font: int) -> Label:
    """At the right end of the line, under it where there is room."""
    text = f"budget: {floor:.1f}%"
    under = floor_y + 1.5 * font < frame[3]
    y = floor_y + (0.8 * font if under else -0.8 * font)
    return _label(text, frame[2] - 4, y, "end", font)


def _label(text: str, x: float, y: float, anchor: str, font: int, stretch: float = 1) -> Label:
    width = text_width(text, font) * stretch
    left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
    box = (left, y - 0.65 * font, left + width, y + 0.65 * font)
    return Label(text=text, x=round(x, 1), y=round(y, 1), anchor=anchor, box=box)


def _labelled(marks: Sequence[Mark], floor_label: Label, floor_y: float, frame: Box, font: int) -> tuple[Mark, ...]:
    """Place labels one by one, the chosen one's first: greedy, so that the most important have the best places."""
    taken = [
        floor_label.box,
        *((one.x - _MARK_PX, one.y - _MARK_PX, one.x + _MARK_PX, one.y + _MARK_PX) for one in marks),
    ]
    lines = [(frame[0], floor_y - 1, frame[2], floor_y + 1)]
    lines += [(one.x - 1, min(one.y_low, one.y_high), one.x + 1, max(one.y_low, one.y_high)) for one in marks]
    placed: dict[int, Label | None] = {}
    said: set[tuple[str, float, float]] = set()
    for number in sorted(range(len(marks)), key=lambda number: _rank(marks[number].dot)):
        mark = marks[number]
        same = (mark.dot.name, mark.x, mark.y)
        placed[number] = None if same in said else _place(mark, taken, lines, frame, font)
        said.add(same)
        label = placed[number]
        if label is not None:
            taken += [label.box, *_dotted(label.leader)]
    return tuple(msgspec.structs.replace(mark, label=placed[number]) for number, mark in enumerate(marks))


def _rank(dot: Dot) -> tuple[bool, bool, bool]:
    return not dot.chosen, dot.stage, dot.hollow


def _place(mark: Mark, taken: Sequence[Box], lines: Sequence[Box], frame: Box, font: int) -> Label | None:
    """The nearest free place that covers few lines."""
    text = shortened(mark.dot.name, int((frame[2] - frame[0]) / (2.2 * font * _GLYPH)))
    best, best_cost = None, math.inf
    for distance, label in _around(mark, text, font):
        inside = (
            frame[0] <= label.box[0]
            and label.box[2] <= frame[2]
            and frame[1] <= label.box[1]
            and label.box[3] <= frame[3]
        )
        reach = [label.box, *_dotted(label.leader)]
        if not inside or any(overlap(part, box) for part in reach for box in taken):
            continue
        cost = distance + _CROSSING_PX * sum(overlap(label.box, line) for line in lines)
        if cost < best_cost:
            best, best_cost = label, cost
    return best


def _around(mark: Mark, text: str, font: int) -> Iterator[tuple[float, Label]]:
    """Places around a mark, with how far off they are."""
    for ring in _RINGS_PX:
        for across, down in _DIRECTIONS:
            anchor = "middle" if abs(across) < 0.1 else "start" if across > 0 else "end"
            away = ring + 3 * mark.dot.chosen
            x, y = mark.x + across * away, mark.y + down * (away + (0.4 * font if anchor == "middle" else 0))
            label = _label(text, x, y, anchor, font, _BOLD if mark.dot.chosen else 1)
            if ring > _RINGS_PX[1]:
                start = (mark.x + across * (_MARK_PX + 1), mark.y + down * (_MARK_PX + 1))
                gap = 2 if anchor != "middle" else 0.65 * font
                end = (x - across * gap, y - down * gap)
                label = msgspec.structs.replace(label, leader=tuple(round(value, 1) for value in (*start, *end)))
            yield ring + 3 * abs(down), label


def _dotted(leader: Box | None) -> list[Box]:
    """Small boxes along a leader line, so that labels keep off it."""
    if leader is None:
        return []
    x, y, end_x, end_y = leader
    at = [(x + (end_x - x) * part / 6, y + (end_y - y) * part / 6) for part in range(1, 6)]
    return [(x - 1, y - 1, x + 1, y + 1) for x, y in at]
