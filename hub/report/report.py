"""The fleet latency report: the ended questions of a window become one value.

Pure: knows nothing of where questions are kept, what time it is, or how a report is shown. Attainment of the objective
counts failed questions as missed, and answers whose delay nobody knows.
"""

from __future__ import annotations

import concurrent.futures

import msgspec
import numpy as np

from hub.report.against import Comparison, compare
from hub.report.distribution import Bar, histogram
from hub.report.figures import Figures, Part, Prediction
from hub.report.filter import Filter
from hub.report.groups import Counted, Objective, fleet_figures, part_figures
from hub.report.history import History, Missing
from hub.report.sketch import ACCURACY
from hub.report.slowest import Slow
from hub.report.timeline import HeatMap, Timeline, heat_map, iso, timeline
from hub.report.timing import Timing, timing_of


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What the report covers: ISO 8601 times in UTC, null where there is neither a question nor a limit.

    The names are what it was narrowed to; none is all.
    """

    since: str | None
    until: str | None
    seconds: float
    nodes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The `--format json` document. Percentiles are within `percentile_error`, as a share, of the exact ones."""

    window: Window
    fleet: Figures
    histogram: tuple[Bar, ...]
    nodes: tuple[Part, ...]
    models: tuple[Part, ...]
    devices: tuple[Part, ...]
    prediction: Prediction
    timeline: Timeline
    heat_map: HeatMap
    slowest: tuple[Slow, ...]
    missing: Missing
    percentile_error: float
    against: Comparison | None


def build_report(
    timing: Timing,
    where: Filter,
    objective: Objective,
    *,
    missing: Missing,
    slowest: tuple[Slow, ...] = (),
    against: Comparison | None = None,
) -> Report:
    """The report over the questions of `timing`, which are those of `where`."""
    history, window = timing.history, window_of(timing.history, where)
    groups = history.node, history.model, history.device
    with concurrent.futures.ThreadPoolExecutor() as threads:  # numpy lets go of the interpreter while it counts
        bars, slots = threads.submit(histogram, timing.delay_ms), threads.submit(timeline, timing)
        cells = threads.submit(heat_map, timing)
        counted = Counted(timing)
        tallies = list(threads.map(counted.tally, groups))
    told = objective, window.seconds, counted.codes
    nodes, models, devices = (
        part_figures(tally, names.names, *told) for tally, names in zip(tallies, groups, strict=True)
    )
    fleet = fleet_figures(tallies[0], *told)
    return Report(
        window=window,
        fleet=fleet,
        histogram=bars.result(),
        nodes=nodes,
        models=models,
        devices=devices,
        prediction=fleet.prediction,
        timeline=slots.result(),
        heat_map=cells.result(),
        slowest=slowest,
        missing=missing,
        percentile_error=ACCURACY,
        against=against,
    )


def compare_with(
    timing: Timing, before: History, where: Filter, objective: Objective, draw: np.random.Generator
) -> Comparison:
    """This window beside an earlier one, the questions of `where`."""
    window = window_of(before, where)
    earlier = timing_of(before, objective.slo_ms)
    return compare(earlier, timing, since=window.since or "", until=window.until or "", draw=draw)


def window_of(history: History, where: Filter) -> Window:
    """The limits of `where`; without them from the first receipt to the last end."""
    since_s, until_s = where.since_s, where.until_s
    if since_s is None and len(history):
        since_s = float((history.wall_time_s - history.total_ms / 1000).min())
    if until_s is None and len(history):
        until_s = float(history.wall_time_s.max())
    seconds = until_s - since_s if since_s is not None and until_s is not None else 0.0
    return Window(
        since=None if since_s is None else iso(since_s),
        until=None if until_s is None else iso(until_s),
        seconds=round(max(seconds, 0.0), 3),
        nodes=where.nodes,
        devices=where.devices,
        models=where.models,
        outcomes=where.outcomes,
    )
