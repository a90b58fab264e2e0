"""How many records are missing, told by gaps in the nodes' own numbers and by the hubs."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from hub import events
from hub.events import Record
from hub.report.filter import Filter
from hub.store.missing import missing_between
from hub.store.reading import read_history, reading
from tests.hub.rows import record
from tests.hub.store.kept import keep


def answer(number: int, life: int = 1, node: str = "a") -> Record:
    return record(id=f"{node}-{life}-{number}", node=node, node_life=life, node_number=number)


def told(number: int, life: int = 1) -> events.AnswersTold:
    return events.AnswersTold(node="a", life=life, number=number)


def missing(store: str, chosen: Filter | None = None) -> int:
    return read_history(store, chosen or Filter())[1].answers


def test_nothing_is_missing(store: str) -> None:
    """From the first number that is known, in whatever order; failures and what is not numbered do not count."""
    keep(
        store, answer(8), answer(7), record(id="x"), record(id="y", outcome="deadline"), answer(9), answer(3, node="b")
    )
    assert missing(store) == 0


def test_gaps(store: str) -> None:
    """Each life of each node counts by itself."""
    keep(store, answer(1), answer(4), answer(9, life=2), answer(11, life=2), answer(1, node="b"))
    assert missing(store) == 2 + 1


def test_a_late_answer_has_no_row(store: str) -> None:
    """Its note fills the gap, and makes others visible."""
    keep(store, answer(1), events.LateAnswer(node="a", life=1, number=2), answer(3))
    assert missing(store) == 0
    keep(store, events.LateAnswer(node="a", life=1, number=5))
    assert missing(store) == 1


def test_a_note_of_what_has_a_row_fills_nothing(store: str) -> None:
    """A node may tell an answer twice; the gap beside it stays."""
    keep(store, answer(1), answer(3), events.LateAnswer(node="a", life=1, number=3))
    assert missing(store) == 1


def test_after_a_sudden_death(store: str) -> None:
    """The next hub hears how far the node has counted."""
    keep(store, *(answer(number) for number in range(1, 6)))
    assert missing(store) == 0
    keep(store, told(8))
    assert missing(store) == 3
    keep(store, answer(9), told(9))
    assert missing(store) == 3


def test_of_the_time_before_nothing_is_known(store: str) -> None:
    """A node that had answered others before does not count as missing what it told them."""
    keep(store, told(1000), answer(1001), answer(1002))
    assert missing(store) == 0


def test_of_a_window(store: str) -> None:
    """Gaps between what the window names; rows on the other side of its edge are no gap."""
    keep(store, answer(1), answer(3), answer(4), answer(2), answer(7))  # at 1000 to 1004 s
    assert missing(store) == 2
    assert missing(store, Filter(until_s=1003.5)) == 0
    assert missing(store, Filter(since_s=1001.0, until_s=1003.0)) == 0
    assert missing(store, Filter(since_s=1002.0)) == 2
    assert missing(store, Filter(since_s=2000.0)) == 0


def test_a_short_time_of_a_long_record_is_found_by_its_time(tmp_path: Path) -> None:
    """SQLite would rather go through the numbers of all nodes, which takes seconds where there are a million."""
    store = str(tmp_path / "fleet.sqlite")
    keep(store, record(id="1", node_life=1, node_number=1))
    plans: list[str] = []

    def plan(connection: sa.Connection, _: object, statement: str, given: tuple[object, ...], *__: object) -> None:
        if "min(questions.node_number)" in statement and not statement.startswith("EXPLAIN"):
            found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
            plans.append(" ".join(str(row[3]) for row in found))

    with reading(store) as (database, connection):
        sa.event.listen(database.engine, "before_cursor_execute", plan)
        missing_between(connection, 2000.0, None)
        missing_between(connection, None, None)
    assert ["wall_time_s" in each for each in plans] == [True, False]
    assert "COVERING INDEX ix_questions_number" in plans[1]
