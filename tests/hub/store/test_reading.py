"""Reading: one question, what is no store, and nothing that changes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from hub.errors import StoreError
from hub.report.filter import Filter
from hub.store.reading import read_history, read_question, read_rows
from tests.hub.rows import record
from tests.hub.store.kept import keep


def test_one_question(store: str) -> None:
    """The last row of an id, or of all; none where there is none."""
    keep(store, *(record(id=name, total_ms=float(number)) for number, name in enumerate("abab")))
    for question_id, total_ms in (("a", 2.0), ("b", 3.0), (None, 3.0)):
        row = read_question(store, question_id)
        assert row is not None
        assert row.total_ms == total_ms
    assert read_question(store, "c") is None


def test_rows_by_number(store: str) -> None:
    """In the order that was asked for; what is not there any more is left out."""
    keep(store, *(record(id=name) for name in "abc"))
    numbers = read_history(store, Filter())[0].row.tolist()
    assert [row.id for row in read_rows(store, [numbers[2], 10**9, numbers[0]])] == ["c", "a"]
    assert read_rows(store, []) == []


@pytest.mark.parametrize("store_name", ["missing.sqlite", "nowhere/fleet.sqlite"])
def test_missing_store(tmp_path: Path, store_name: str) -> None:
    """Reading creates nothing and says in one line where there is nothing."""
    with pytest.raises(StoreError, match="there is no record store at") as caught:
        read_history(str(tmp_path / store_name), Filter())
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_no_store(tmp_path: Path) -> None:
    """A text file, an empty one and another program's database are refused in one line, and stay as they are."""
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be read as one: " * 50)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    empty = tmp_path / "empty"
    empty.touch()
    for path in (text, other, empty):
        before = path.read_bytes()
        with pytest.raises(StoreError) as caught:
            read_history(str(path), Filter())
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["with space.sqlite", "100%.sqlite", "a?b#c.sqlite", "ü.sqlite"])
def test_names_of_files(tmp_path: Path, name: str) -> None:
    """Whatever a path may hold."""
    keep(str(tmp_path / name), record(id="1"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(read_history(str(tmp_path / name), Filter())[0]) == 1


def test_other_writers_tables_are_one_line(tmp_path: Path) -> None:
    """A store that somebody has cut is refused in the database's words."""
    store = str(tmp_path / "fleet.sqlite")
    keep(store, record(id="1"))
    with sqlite3.connect(store) as connection:
        connection.execute("DROP TABLE questions")
    with pytest.raises(StoreError, match="no such table"):
        read_history(store, Filter())
