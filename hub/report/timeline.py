"""How did it go over time? Delay, stages and misses of each slot of the window, and the 95th percentile by node.

Slots begin at whole minutes, hours or days of UTC, by the wall clock. Does not know how they are drawn.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from hub.report.figures import Stages
from hub.report.groups import NO_NAME
from hub.report.history import Ints, Names
from hub.report.sketch import Sketches, buckets_of
from hub.report.timing import STAGES, Timing

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
DAY_S: Final = 86400.0
_WIDTHS_S: Final = (
    *(1.0, 2.0, 5.0, 10.0, 30.0, MINUTE_S, 2 * MINUTE_S, 5 * MINUTE_S, 15 * MINUTE_S, 30 * MINUTE_S),
    *(HOUR_S, 3 * HOUR_S, 6 * HOUR_S, DAY_S, 2 * DAY_S, 7 * DAY_S, 28 * DAY_S),
)
_MOST_SLOTS: Final = 60
_MOST_COLUMNS: Final = 36
MOST_NODES: Final = 40
_HEAT_FROM_S: Final = 3 * HOUR_S  # from here on a column of the heat map is an hour or more


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """What ended in one slot of time, which begins at `start` (ISO 8601, UTC)."""

    start: str
    questions: int
    missed: int
    p50_ms: float | None
    p95_ms: float | None
    stages_ms: Stages


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """All slots from the first to the last with a question, `slot_s` seconds each."""

    slot_s: float
    slots: tuple[Slot, ...]


class HeatRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node: in each slot its answers and the 95th percentile of their delay, null where there was none."""

    node: str
    answers: tuple[int, ...]
    p95_ms: tuple[float | None, ...]


class HeatMap(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes by slots of time that begin at `starts`; the busiest nodes only, `left_out` says how many are not here."""

    slot_s: float
    starts: tuple[str, ...]
    nodes: tuple[HeatRow, ...]
    left_out: int


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """Slots of `width_s` from `first_s` on; `codes` says in which one each question ended."""

    width_s: float
    first_s: float
    count: int
    codes: Ints

    @classmethod
    def of(cls, timing: Timing, most: int, least_width_s: float = 0.0) -> Slots:
        """At most so many, as narrow as that allows."""
        ends_s = timing.history.wall_time_s
        first_s, last_s = float(ends_s.min()), float(ends_s.max())
        wide_enough = (
            width_s
            for width_s in _WIDTHS_S
            if width_s >= least_width_s and last_s // width_s - first_s // width_s + 1 <= most
        )
        width_s = next(wide_enough, _WIDTHS_S[-1])
        numbers = (ends_s // width_s).astype(np.int64)
        return cls(
            width_s=width_s,
            first_s=first_s // width_s * width_s,
            count=int(last_s // width_s - first_s // width_s) + 1,
            codes=numbers - int(first_s // width_s),
        )

    @property
    def starts(self) -> tuple[str, ...]:
        """When each begins."""
        return tuple(iso(self.first_s + number * self.width_s) for number in range(self.count))


def timeline(timing: Timing) -> Timeline:
    """Slots over the whole history."""
    if not len(timing.history):
        return Timeline(slot_s=0.0, slots=())
    slots = Slots.of(timing, _MOST_SLOTS)
    timed = slots.codes[timing.at]
    answers = np.bincount(timed, None, slots.count)
    questions = np.bincount(slots.codes, None, slots.count).tolist()
    missed = np.bincount(slots.codes[~timing.kept], None, slots.count).tolist()
    percentiles = Sketches.of(buckets_of(timing.delay_ms), timed, slots.count).percentiles((0.5, 0.95)).tolist()
    with np.errstate(invalid="ignore"):
        means = {name: np.bincount(timed, timing.stages_ms[name], slots.count) / answers for name in STAGES}
    return Timeline(
        slot_s=slots.width_s,
        slots=tuple(
            Slot(
                start=start,
                questions=questions[number],
                missed=missed[number],
                p50_ms=_rounded(percentiles[number][0]),
                p95_ms=_rounded(percentiles[number][1]),
                stages_ms=Stages(**{name: _rounded(float(means[name][number])) for name in STAGES}),
            )
            for number, start in enumerate(slots.starts)
        ),
    )


def heat_map(timing: Timing) -> HeatMap:
    """Nodes by hours, or by what fits where the window is shorter than three hours or longer than a day."""
    if not len(timing.at):
        return HeatMap(slot_s=0.0, starts=(), nodes=(), left_out=0)
    ends_s = timing.history.wall_time_s
    least_s = HOUR_S if float(ends_s.max() - ends_s.min()) >= _HEAT_FROM_S else 0.0
    slots = Slots.of(timing, _MOST_COLUMNS, least_s)
    node = timing.history.node
    codes = node.codes[timing.at].astype(np.int64)
    answers = np.bincount(codes, None, len(node.names))
    ranked = [code for code in np.argsort(-answers, kind="stable").tolist() if answers[code]]
    shown = ranked[:MOST_NODES]
    place = np.full(len(node.names), -1)
    place[shown] = range(len(shown))
    of_shown = place[codes] >= 0
    cells = place[codes[of_shown]] * slots.count + slots.codes[timing.at[of_shown]]
    sketches = Sketches.of(buckets_of(timing.delay_ms[of_shown]), cells, len(shown) * slots.count)
    p95_ms = sketches.percentiles((0.95,)).reshape(len(shown), slots.count)
    counts = sketches.sizes().reshape(len(shown), slots.count)
    rows = [_heat_row(node, code, counts[at].tolist(), p95_ms[at].tolist()) for at, code in enumerate(shown)]
    return HeatMap(
        slot_s=slots.width_s,
        starts=slots.starts,
        nodes=tuple(sorted(rows, key=lambda row: row.node)),
        left_out=len(ranked) - len(shown),
    )


def _heat_row(node: Names, code: int, counts: Sequence[int], p95_ms: Sequence[float]) -> HeatRow:
    return HeatRow(
        node=node.names[code] or NO_NAME, answers=tuple(counts), p95_ms=tuple(_rounded(value) for value in p95_ms)
    )


def iso(wall_time_s: float) -> str:
    """The time as ISO 8601 in UTC.

    >>> iso(0.0), iso(1.5)
    ('1970-01-01T00:00:00.000+00:00', '1970-01-01T00:00:01.500+00:00')
    """
    return datetime.datetime.fromtimestamp(wall_time_s, datetime.timezone.utc).isoformat(timespec="milliseconds")


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 3)
