"""The delay of each answer, and its stages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.report.timing import STAGES, timing_of
from tests.hub.report.many import many
from tests.hub.rows import history, row


@given(st.integers(0, 1000), st.integers(0, 80))
def test_stages_sum_to_the_delay(seed: int, count: int) -> None:
    """Whoever's clock the delay is by; nothing is left over and nothing counted twice."""
    rows = many(count, seed=seed)
    timing = timing_of(history(rows), 1000.0)
    assert np.sum([timing.stages_ms[name] for name in STAGES], axis=0) == pytest.approx(timing.delay_ms)
    told = [row for row in rows if row.outcome == "answered" and row.asker_ms is not None]
    assert timing.told.sum() == len(told)
    assert timing.delay_ms.tolist() == [
        row.total_ms if row.asker_ms is None else row.asker_ms
        for row in rows
        if row.outcome == "answered" and not (row.partial and row.asker_ms is None)
    ]


def test_the_askers_clock_goes_first() -> None:
    """What the hub cannot see is a stage of its own, also where it is less than nothing."""
    timing = timing_of(history([row(asker_ms=130.0), row(asker_ms=99.5), row()]), 1000.0)
    assert timing.delay_ms.tolist() == [130.0, 99.5, 100.0]
    assert timing.stages_ms["access"].tolist() == [30.0, -0.5, 0.0]
    assert timing.stages_ms["network"].tolist() == [10.0, 10.0, 10.0]


def test_pieced_together_rows_are_timed_by_their_askers_only() -> None:
    """A total that is a lower bound is no delay, and keeps no objective."""
    rows = [row(partial=True), row(partial=True, asker_ms=120.0), row(outcome="deadline", asker_ms=50.0)]
    timing = timing_of(history(rows), 1000.0)
    assert (timing.at.tolist(), timing.delay_ms.tolist()) == ([1], [120.0])
    assert (timing.answered.tolist(), timing.kept.tolist()) == ([True, True, False], [False, True, False])


def test_within_the_objective() -> None:
    """An answer that takes just as long as was promised is in time."""
    timing = timing_of(history([row(total_ms=100.0), row(total_ms=100.1), row(asker_ms=99.0)]), 100.0)
    assert timing.kept.tolist() == [True, False, True]


def test_first_text() -> None:
    """As the asker saw it; else decoding begins with it."""
    timing = timing_of(history([row(asker_ms=130.0, asker_first_ms=70.0), row(asker_ms=130.0), row()]), 1000.0)
    assert timing.first_ms.tolist() == [70.0, 90.0, 60.0]
