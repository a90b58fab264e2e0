"""What is told twice is kept once, and what is told about a row goes to it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from hub import events, wire
from hub.report.filter import Filter
from hub.store.reading import read_history
from tests.hub.rows import record
from tests.hub.store.kept import keep, rows_of


def heard(*names: str, device: str = "kitchen", total_ms: float = 123.0) -> events.AskerHeard:
    earlier = tuple(wire.Earlier(id=name, total_ms=total_ms, first_ms=45.0) for name in names)
    return events.AskerHeard(device=device, earlier=earlier)


def test_what_a_node_tells_twice_is_kept_once(store: str) -> None:
    """Also after a restart of the hub; what a hub had is another question, whatever its id."""
    for _ in range(2):
        keep(
            store,
            *(record(id=name, attempts=0, local=True) for name in ("1", "2")),
            record(id="1", attempts=0, node="other", local=True),
            record(id="1", attempts=0, node=None, outcome="no_node"),
            record(id="1", attempts=1),
        )
    kept = sorted((row.id, row.attempts, str(row.node)) for row in rows_of(store))
    assert kept == sorted([("1", 0, "a"), ("2", 0, "a"), ("1", 0, "other"), ("1", 0, "None"), ("1", 1, "a")])


def test_an_answer_is_one_row(store: str) -> None:
    """The same number of the same life of a node, in one batch or in two, by one hub or another."""
    first = record(id="1", node_life=1, node_number=1)
    keep(store, first, first, record(id="2", node_life=1, node_number=2))
    others = record(id="1", node_life=2, node_number=1), record(id="3", node="b", node_life=1, node_number=1)
    keep(store, first, *others, at=2000.0)
    assert [(row.id, row.node, row.node_life) for row in rows_of(store)] == [
        ("1", "a", 1), ("2", "a", 1), ("1", "a", 2), ("3", "b", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("together", [True, False])
def test_a_whole_row_is_better_than_one_pieced_together(store: str, together: bool) -> None:
    """Whichever is told first, as long as it is in one batch or the whole one was there before."""
    whole = record(id="1", node_life=1, node_number=5)
    part = record(id="1", node_life=1, node_number=6, partial=True)
    if together:
        keep(store, part, whole)
    else:
        keep(store, whole)
        keep(store, part)
    assert [(row.id, row.partial) for row in rows_of(store)] == [("1", False)]


def test_one_question_of_two_hubs_is_one_row(store: str) -> None:
    """Each had it at a node, after a death between them; the other answer's number is no gap."""
    first = record(id="1", node_life=1, node_number=1, total_ms=500.0)
    again = record(id="1", node="b", node_life=1, node_number=2, total_ms=900.0)
    keep(store, record(id="0", node="b", node_life=1, node_number=1), first, at=999.0)
    keep(store, again, record(id="2", node="b", node_life=1, node_number=3), at=1000.6)
    assert [row.id for row in rows_of(store)] == ["0", "1", "2"]
    assert read_history(store, Filter())[1].answers == 0


def test_a_question_that_the_broker_delivers_again_is_one_row(store: str) -> None:
    """To a hub that does not know that the one before has ended it; the id may be used again all the same."""
    keep(store, record(id="1", node_life=1, node_number=1, total_ms=100.0))
    keep(store, record(id="1", node_life=1, node_number=2, total_ms=100.0, again=True), at=1002.0)
    keep(store, record(id="1", node_life=1, node_number=3, total_ms=100.0), at=1003.0)
    keep(store, record(id="1", node_life=1, node_number=4, total_ms=100.0, again=True), at=5000.0)
    assert [row.node_number for row in rows_of(store)] == [1, 3, 4]
    assert read_history(store, Filter())[1].answers == 0


def test_an_id_that_is_used_again_right_away_is_another_question(store: str) -> None:
    """It begins when the first has ended."""
    keep(store, *(record(id="1", total_ms=100.0) for _ in range(3)), every_s=0.1)
    assert len(rows_of(store)) == 3


def test_two_writers_of_one_answer(store: str) -> None:
    """What another hub writes between looking and writing is found at the second look."""
    first, second = record(id="1", node_life=1, node_number=1), record(id="2")
    keep(store, first)
    looked = []

    def nothing_known(*_: object) -> set[tuple[object, ...]]:
        looked.append(True)
        return set() if len(looked) == 1 else {("a", 1, 1)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hub.store.batch._known_numbers", nothing_known)
        records = keep(store, first, second)
    assert records.kept().lost == 0
    assert [row.id for row in rows_of(store)] == ["1", "2"]


def test_what_an_asker_heard_goes_to_its_row(store: str) -> None:
    """To the latest of that device and id, once; also where its row comes a moment later."""
    keep(
        store,
        record(id="old"),
        heard("1", "2", "unknown"),
        record(id="1"),
        record(id="1", device="hall"),
        heard("1", total_ms=999.0),
        record(id="2"),
    )
    told = [(row.id, row.device, row.asker_ms, row.asker_first_ms) for row in rows_of(store)]
    assert told == [
        ("old", "kitchen", None, None),
        ("1", "kitchen", 123.0, 45.0),
        ("1", "hall", None, None),
        ("2", "kitchen", 123.0, 45.0),
    ]


def test_what_an_asker_heard_is_not_of_its_next_question(store: str) -> None:
    """A device that uses one id for all its questions tells of the one before."""
    keep(store, record(id="1", total_ms=100.0), at=1000.0)
    keep(store, heard("1", total_ms=150.0), at=1000.06)
    keep(store, record(id="1", total_ms=20.0), at=1000.09)
    keep(store, heard("1", total_ms=150.0), at=1000.06)
    assert [row.asker_ms for row in rows_of(store)] == [150.0, None]


def test_an_id_that_is_used_again(store: str) -> None:
    """Each of its rows has what was told of it."""
    for total_ms in (1.0, 2.0):
        keep(store, record(id="1"), heard("1", total_ms=total_ms), at=1000.0 * total_ms)
    assert [row.asker_ms for row in rows_of(store)] == [1.0, 2.0]


def test_notes_that_are_told_twice(store: str) -> None:
    """Two hubs may both note an answer that came late."""
    late = events.LateAnswer(node="a", life=1, number=2)
    keep(store, record(id="1", node_life=1, node_number=1), late, late)
    keep(store, late, record(id="3", node_life=1, node_number=3))
    assert read_history(store, Filter())[1].answers == 0


def test_decisions_lie_beside_the_rows(tmp_path: object) -> None:
    """A report over many rows must not read them."""
    from hub.store.tables import decisions, questions

    assert "decisions" not in questions.c
    assert isinstance(decisions.c.decisions.type, sa.Text)
