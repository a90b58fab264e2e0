"""The oldest records leave, a few at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from hub import events
from hub.store.database import Database
from hub.store.retention import CHUNK_ROWS, DAY_S, Retention, sweep
from hub.store.tables import decisions, late_answers
from tests.hub.rows import record
from tests.hub.store.kept import keep, rows_of
from tests.hub.store.test_records import DECISION


def swept(store: str, retention: Retention, now_s: float) -> list[bool]:
    database, more = Database(store, writing=True), [True]
    while more[-1]:
        with database.engine.begin() as connection:
            more.append(sweep(connection, retention, now_s))
    database.engine.dispose()
    return more[1:]


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(), list("012345")),
        (Retention(rows=2), list("45")),
        (Retention(days=1.0), list("345")),
        (Retention(days=1.0, rows=4), list("345")),
        (Retention(days=10.0, rows=4), list("2345")),
    ],
)
def test_what_stays(store: str, retention: Retention, kept: list[str]) -> None:
    """The newest rows, with their decisions; both bounds hold."""
    keep(store, *(record(id=str(number), decisions=(DECISION,)) for number in range(6)), at=DAY_S - 3.0)
    swept(store, retention, 2 * DAY_S)
    rows = rows_of(store)
    assert [row.id for row in rows] == kept
    assert all(row.decisions == (DECISION,) for row in rows)


def test_decisions_and_notes_leave_with_their_rows(tmp_path: Path) -> None:
    """Nothing stays that belongs to no row."""
    store = str(tmp_path / "fleet.sqlite")
    notes = [events.LateAnswer(node="a", life=1, number=number) for number in (1, 2)]
    keep(store, notes[0], record(id="old", decisions=(DECISION,)), record(id="new"), notes[1])
    swept(store, Retention(rows=1), 1e9)
    database = Database(store, writing=False)
    with database.engine.connect() as connection:
        assert connection.execute(sa.select(decisions.c.seq)).all() == []
        assert connection.execute(sa.select(late_answers.c.number)).all() == [(2,)]
    database.engine.dispose()


def test_a_few_at_a_time(tmp_path: Path) -> None:
    """Whoever writes waits for one chunk at most."""
    store = str(tmp_path / "fleet.sqlite")
    keep(store, *(record(id=str(number)) for number in range(2 * CHUNK_ROWS + 10)))
    assert swept(store, Retention(rows=5), 0.0) == [True, True, True, False]
    assert len(rows_of(store)) == 5
