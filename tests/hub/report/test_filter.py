"""Which questions a report is about."""

from __future__ import annotations

import pytest

from hub.report.filter import Filter
from tests.hub.report.many import many
from tests.hub.rows import history

ROWS = many(300)
MIDDLE_S = ROWS[100].wall_time_s


@pytest.mark.parametrize(
    "where",
    [
        Filter(),
        Filter(since_s=MIDDLE_S),
        Filter(until_s=MIDDLE_S),
        Filter(nodes=("a", "c")),
        Filter(nodes=("",)),
        Filter(models=("qwen",), devices=("kitchen", "nobody"), outcomes=("answered",)),
        Filter(outcomes=("nothing of the kind",)),
        Filter(since_s=MIDDLE_S, until_s=MIDDLE_S),
    ],
)
def test_mask_is_what_it_says(where: Filter) -> None:
    """Every limit holds at once; the window begins with its first moment and ends before its last."""
    wanted = [
        (where.since_s is None or row.wall_time_s >= where.since_s)
        and (where.until_s is None or row.wall_time_s < where.until_s)
        and (not where.nodes or (row.node or "") in where.nodes)
        and (not where.devices or row.device in where.devices)
        and (not where.models or (row.model or "") in where.models)
        and (not where.outcomes or row.outcome in where.outcomes)
        for row in ROWS
    ]
    assert where.mask(history(ROWS)).tolist() == wanted


def test_earlier_windows_do_not_overlap() -> None:
    """A window, moved by its own length, ends where it began: no question is in both. An open end stays open."""
    where = Filter(since_s=MIDDLE_S, until_s=MIDDLE_S + 500.0)
    both = where.mask(history(ROWS)) & where.earlier(500.0).mask(history(ROWS))
    assert not both.any()
    assert Filter(nodes=("a",)).earlier(60.0) == Filter(nodes=("a",))
