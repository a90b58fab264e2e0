"""Where the marks of the charts stand."""

from __future__ import annotations

import itertools

import pytest

from hub.events import Row
from hub.report.charts import NARROW, WIDE, Chart, Size, delays_chart, distribution_chart, stages_chart
from hub.report.report import Report
from hub.report.timing import STAGES
from tests.hub.report.made import made
from tests.hub.report.many import many
from tests.hub.rows import row

REPORT = made(many(600, every_s=60.0))
SLO_MS = 150.0


def charts(report: Report, size: Size) -> list[Chart]:
    return [
        distribution_chart(report.histogram, report.fleet.latency_ms, SLO_MS, size),
        stages_chart(report.timeline, size),
        delays_chart(report.timeline, SLO_MS, size),
    ]


@pytest.mark.parametrize("size", [WIDE, NARROW])
@pytest.mark.parametrize("rows", [many(600, every_s=60.0), many(3), [row()], [row(total_ms=0.0, decode_ms=0.0)]])
def test_everything_is_on_the_drawing(size: Size, rows: list[Row]) -> None:
    """Blocks are between the axes, ticks and their texts on the drawing and clear of each other."""
    for chart in charts(made(rows), size):
        for block in chart.blocks:
            assert block.width > 0
            assert chart.left - 0.2 <= block.x
            assert block.x + block.width <= chart.right + 0.6
            assert block.height >= 0
            assert chart.top - 0.2 <= block.y <= block.y + block.height <= chart.bottom + 0.2
        for one, following in itertools.pairwise(chart.x_ticks):
            assert following.at - one.at >= (len(one.text) + len(following.text)) / 2 * size.font * 0.6
        assert all(0 <= tick.at + len(tick.text) * size.font * 0.3 <= size.width for tick in chart.x_ticks)
        assert len(chart.y_ticks) >= 1


def test_bars_are_as_high_as_their_counts() -> None:
    """Heights are in proportion, and the highest reaches the top."""
    chart = distribution_chart(REPORT.histogram, REPORT.fleet.latency_ms, SLO_MS, WIDE)
    assert len(chart.blocks) == len(REPORT.histogram)
    most = max(bar.count for bar in REPORT.histogram)
    for block, bar in zip(chart.blocks, REPORT.histogram, strict=True):
        assert block.height == pytest.approx(bar.count / most * (chart.bottom - chart.top), abs=0.2)
    assert [mark.kind for mark in chart.x_marks] == ["p50", "slo", "p95"]
    assert [mark.row for mark in chart.x_marks] == [0, 1, 2]


def test_stages_stand_on_each_other() -> None:
    """In each slot they are as high, together, as the mean delay is; each stands where the one below ends."""
    chart = stages_chart(REPORT.timeline, WIDE)
    columns = [list(group) for _, group in itertools.groupby(chart.blocks, key=lambda block: block.x)]
    assert len(columns) == len(REPORT.timeline.slots)
    means = [sum(max(getattr(slot.stages_ms, name), 0.0) for name in STAGES) for slot in REPORT.timeline.slots]
    for column, mean_ms in zip(columns, means, strict=True):
        height = sum(block.height for block in column)
        assert height == pytest.approx(mean_ms / max(means) * (chart.bottom - chart.top), abs=1.0)
        for below, above in itertools.pairwise(column):
            assert above.y + above.height == pytest.approx(below.y, abs=0.2)


def test_a_slot_without_answers_is_a_gap() -> None:
    """The line breaks there, and a lone slot is a dot."""
    line = made([row(1000.0), row(1001.0), row(1003.0)]).timeline
    path = delays_chart(line, SLO_MS, WIDE).lines[0].path
    assert path.count("M") == 2
    assert path.count("h0.1") == 1


def test_the_objective_is_marked_where_it_is_in_sight() -> None:
    """One that is far above all delays would press them flat."""
    assert delays_chart(REPORT.timeline, SLO_MS, WIDE).y_marks
    assert not delays_chart(REPORT.timeline, 1e6, WIDE).y_marks
    assert not [mark for mark in distribution_chart(REPORT.histogram, REPORT.fleet.latency_ms, 1e6, WIDE).x_marks
                if mark.kind == "slo"]  # fmt: skip
