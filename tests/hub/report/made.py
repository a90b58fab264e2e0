"""Whole reports, for tests of how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hub.events import Row
from hub.report.filter import Filter
from hub.report.groups import Objective
from hub.report.history import Missing
from hub.report.report import Report, build_report, compare_with
from hub.report.slowest import slow, slowest_of
from hub.report.timing import timing_of
from tests.hub.report.many import many
from tests.hub.rows import history, row

OBJECTIVE = Objective(150.0, 0.9)
HOSTILE = "<script>alert('x')</script>\"&"
MISSING = Missing(answers=7, lost=3, why=("disk full", HOSTILE))


def made(rows: Sequence[Row], *, where: Filter | None = None, before: Sequence[Row] = (), slowest: int = 3) -> Report:
    """The report over some rows, of which the earlier ones are `before`."""
    timing, where = timing_of(history(rows), OBJECTIVE.slo_ms), where or Filter()
    numbered = dict(enumerate(rows, start=1))
    against = None
    if before:
        against = compare_with(timing, history(before), where, OBJECTIVE, np.random.default_rng(0))
    told = slow(timing, slowest_of(timing, slowest), numbered)
    return build_report(timing, where, OBJECTIVE, missing=MISSING, slowest=told, against=against)


def hostile(**changes: Any) -> Row:
    """A row in which every name that somebody may choose is an attack."""
    names = {"device": HOSTILE, "id": HOSTILE, "node": HOSTILE, "bundle": HOSTILE, "model": HOSTILE}
    return row(**{**names, "total_ms": 9000.0, "decode_ms": 8940.0, **changes})


def full() -> Report:
    """A report with something in every part of it."""
    rows = [*many(900, seed=2, every_s=60.0), hostile(wall_time_s=1_764_050_000.0)]
    rows.append(hostile(wall_time_s=1_764_050_001.0, outcome=HOSTILE))
    return made(rows, before=many(900, seed=1, start_s=1_763_900_000.0, every_s=60.0))
