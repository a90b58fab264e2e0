"""Columns by Arrow and row by row are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from hub.report.filter import Filter
from hub.report.history import History, Names
from hub.store.columns import _by_arrow
from hub.store.database import Database
from hub.store.reading import read_history
from hub.store.tables import questions
from tests.hub.rows import history as history_of
from tests.hub.rows import record
from tests.hub.store.kept import keep, rows_of

RECORDS = [
    record(id="1", total_ms=1.0, prompt_tokens=2**40),
    record(id="2", node=None, model=None, bundle=None, predicted_ms=None, outcome="no_node"),
    record(id="3", attempts=0, local=True, second="silence", second_won=True, partial=True, predicted_queue_ms=0.1),
]


def plain(history: History) -> dict[str, Any]:
    return {
        name: [each.names[code] for code in each.codes] if isinstance(each, Names) else each
        for name, each in history.columns().items()
    }


def same(one: History, other: History) -> None:
    for name, column in plain(one).items():
        np.testing.assert_array_equal(column, plain(other)[name], err_msg=name)


@pytest.fixture(params=["by Arrow", "row by row"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "row by row":
        monkeypatch.setattr("hub.store.columns._by_arrow", lambda *_: None)
    return str(request.param)


def test_columns_are_the_rows(store: str, way: str) -> None:
    """Every column has the meaning and the type that it has in a row."""
    keep(store, *RECORDS)
    history, _ = read_history(store, Filter(), details=True)
    same(history, history_of(rows_of(store)))
    for name, column in plain(history_of(rows_of(store))).items():
        if not isinstance(column, list):
            assert plain(history)[name].dtype == column.dtype, name


@pytest.mark.parametrize(
    "chosen",
    [
        Filter(since_s=1001.0),
        Filter(until_s=1001.5, nodes=("a", "")),
        Filter(nodes=("",)),
        Filter(devices=("kitchen", "o'hara %s %% ? $1 \\"), outcomes=("answered",)),
        Filter(models=("large",)),
    ],
    ids=str,
)
def test_the_database_chooses_as_the_filter_does(store: str, way: str, chosen: Filter) -> None:
    """Names are values, whatever is in them."""
    keep(store, *RECORDS)
    whole, _ = read_history(store, Filter())
    same(read_history(store, chosen)[0], whole.where(chosen.mask(whole)))


def test_details_are_read_where_they_are_wanted(store: str, way: str) -> None:
    """All else is the same without them."""
    keep(store, *RECORDS)
    without, _ = read_history(store, Filter())
    assert without.details is None
    whole = plain(read_history(store, Filter(), details=True)[0])
    assert whole["task"] == ["text-generation"] * 3
    for name, column in plain(without).items():
        np.testing.assert_array_equal(column, whole[name], err_msg=name)


def test_what_is_known_late(tmp_path: Path, way: str) -> None:
    """Askers may begin to tell, and predictions to come, after a hundred thousand rows without."""
    store = str(tmp_path / "fleet.sqlite")
    keep(store)
    rows = 70_000
    database = Database(store, writing=True)
    with database.engine.begin() as connection:
        values = {name: getattr(RECORDS[1], name) for name in RECORDS[1].__struct_fields__ if name in questions.c}
        many = [{**values, "wall_time_s": float(number), "asker_ms": None} for number in range(rows)]
        connection.execute(questions.insert(), [*many, {**many[-1], "asker_ms": 12.5, "predicted_ms": 3.0}])
    database.engine.dispose()
    history, _ = read_history(store, Filter())
    assert len(history) == rows + 1
    assert (history.asker_ms[-1], history.predicted_ms[-1]) == (12.5, 3.0)
    assert np.isnan(history.asker_ms[:-1]).all()


def test_a_window_in_a_part_of_a_large_store(tmp_path: Path, way: str) -> None:
    """Readers whose part has no question of the window, or all of them, are no trouble."""
    store = str(tmp_path / "fleet.sqlite")
    keep(store)
    rows = 70_000  # more than one reader takes
    database = Database(store, writing=True)
    with database.engine.begin() as connection:
        values = {name: getattr(RECORDS[0], name) for name in RECORDS[0].__struct_fields__ if name in questions.c}
        connection.execute(questions.insert(), [{**values, "wall_time_s": float(number)} for number in range(rows)])
    database.engine.dispose()
    for chosen, found in ((Filter(since_s=rows - 10.0), 10), (Filter(until_s=10.0), 10), (Filter(since_s=1e6), 0)):
        history, _ = read_history(store, chosen, details=True)
        assert len(history) == found
        assert set(history.node.names) == ({"a"} if found else set())


def test_an_empty_store(store: str, way: str) -> None:
    """All columns are there, and empty."""
    keep(store)
    history, missing = read_history(store, Filter(), details=True)
    assert (len(history), missing.answers) == (0, 0)
    assert {len(column) for column in plain(history).values()} == {0}


def test_order_is_that_of_the_ends(store: str, way: str) -> None:
    """What a node did on its own is told later than it was."""
    keep(store, *(record(id=name) for name in "cba"), every_s=-1.0)
    assert [row.id for row in rows_of(store)] == list("abc")


def test_readers_who_come_together_wait_for_each_other(store: str) -> None:
    """Whoever opens an SQLite file first has it alone for a moment; the others are not told that it is locked."""
    keep(store, *RECORDS)
    database = Database(store, writing=False)
    for _ in range(60):
        found = _by_arrow(database, [sa.select(questions.c.seq.label("row"))] * 4)
        assert found is not None
        assert found.num_rows == 4 * len(RECORDS)
    database.engine.dispose()
