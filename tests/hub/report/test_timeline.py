"""Slots of time: what ended in each, and the heat map of the nodes."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from hub.events import Row
from hub.report.groups import NO_NAME
from hub.report.sketch import ACCURACY
from hub.report.timeline import MOST_NODES, heat_map, timeline
from hub.report.timing import STAGES, Timing, timing_of
from tests.hub.report.many import many
from tests.hub.rows import history, row

SLO_MS = 150.0
ROWS = many(2000, every_s=60.0)  # a day and a half


def timing(rows: list[Row]) -> Timing:
    return timing_of(history(rows), SLO_MS)


def start_s(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def test_each_slot_is_its_own_questions() -> None:
    """Counts, misses, percentiles and stages of a slot are those of what ended in it; slots leave no gap."""
    one = timing(ROWS)
    line = timeline(one)
    ends_s, delays = one.history.wall_time_s, one.delay_ms
    assert sum(slot.questions for slot in line.slots) == len(ROWS)
    for number, slot in enumerate(line.slots):
        begin_s = start_s(slot.start)
        assert begin_s == start_s(line.slots[0].start) + number * line.slot_s
        within = (ends_s >= begin_s) & (ends_s < begin_s + line.slot_s)
        timed = within[one.at]
        assert (slot.questions, slot.missed) == (within.sum(), (within & ~one.kept).sum())
        assert slot.p95_ms == pytest.approx(np.percentile(delays[timed], 95), rel=ACCURACY * 1.01)
        for name in STAGES:
            assert getattr(slot.stages_ms, name) == pytest.approx(one.stages_ms[name][timed].mean(), abs=1e-3)


def test_slots_are_whole_and_not_too_many() -> None:
    """They begin at round times of UTC; a longer window has wider ones."""
    for count, every_s in ((100, 0.1), (100, 60.0), (100, 86400.0), (100, 30 * 86400.0)):
        line = timeline(timing(many(count, every_s=every_s)))
        assert 1 < len(line.slots) <= 60 or every_s > 86400.0
        assert start_s(line.slots[0].start) % line.slot_s == 0


def test_a_slot_without_answers_says_so() -> None:
    """No figure is 0 because there is none."""
    line = timeline(timing([row(1000.0), row(1001.0, outcome="deadline"), row(1003.0)]))
    assert [slot.questions for slot in line.slots] == [1, 1, 0, 1]
    assert (line.slots[1].p95_ms, line.slots[1].stages_ms.decode, line.slots[1].missed) == (None, None, 1)


def test_heat_map() -> None:
    """Each cell is the 95th percentile of one node's answers in one slot; nodes are by name."""
    one = timing(ROWS)
    heat = heat_map(one)
    assert heat.slot_s >= 3600.0
    assert [line.node for line in heat.nodes] == ["a", "b", "c"]
    ends_s, node = one.history.wall_time_s[one.at], one.history.node
    for line in heat.nodes:
        for start, answers, p95_ms in zip(heat.starts, line.answers, line.p95_ms, strict=True):
            begin_s = start_s(start)
            cell = node.are(line.node)[one.at] & (ends_s >= begin_s) & (ends_s < begin_s + heat.slot_s)
            assert answers == cell.sum()
            exact = np.percentile(one.delay_ms[cell], 95) if answers else None
            assert p95_ms == (None if exact is None else pytest.approx(exact, rel=ACCURACY * 1.01))


def test_heat_map_is_by_hour_for_a_day() -> None:
    """A window of a day has columns of an hour, one of ten minutes has narrower ones."""
    assert heat_map(timing(many(1440, every_s=60.0))).slot_s == 3600.0
    assert heat_map(timing(many(600, every_s=1.0))).slot_s < 60.0


def test_heat_map_of_many_nodes_is_of_the_busiest() -> None:
    """It says how many are not there."""
    rows = [row(1000.0 + number, node=f"n{number % 50}") for number in range(150)]
    rows += [row(2000.0, node="n49") for _ in range(10)]
    rows.append(row(2000.0, node=None))
    heat = heat_map(timing(rows))
    assert (len(heat.nodes), heat.left_out) == (MOST_NODES, 11)
    assert "n49" in [line.node for line in heat.nodes]
    assert NO_NAME not in [line.node for line in heat.nodes]


def test_nothing_ended() -> None:
    """An empty window has no slots."""
    assert (timeline(timing([])).slots, heat_map(timing([])).nodes) == ((), ())
    assert heat_map(timing([row(outcome="deadline")])).nodes == ()
