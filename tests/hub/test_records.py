"""Keeping rows: written in the background, read back whole, refused where the schema is unknown."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from hub.decision import Decision, Rejected, Terms
from hub.errors import StoreError
from hub.records import Records, read_question, read_rows
from tests.hub.rows import record

TERMS = Terms(
    node="a",
    bundle="b",
    network_ms=1.0,
    wait_ms=2.0,
    fixed_ms=3.0,
    prefill_ms=4.0,
    decode_ms=5.0,
    prompt_tokens=6.0,
    completion_tokens=7.0,
)
DECISION = Decision(
    device="kitchen", id="q", attempt=1, chosen=TERMS, candidates=(TERMS,), rejected=(Rejected("b", "x"),)
)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "fleet.sqlite")


def test_rows_come_back_whole(store: str) -> None:
    """What is kept is read back equal, in order, with its wall time; closing writes what is queued."""
    kept = [
        record(id="1", decisions=(DECISION,)),
        record(id="2", node=None, bundle=None, model=None, predicted_ms=None),
    ]
    records = Records(store)
    for number, each in enumerate(kept):
        records.store(each, 1000.0 + number)
    records.close()
    rows = read_rows(store)
    assert [row.wall_time_s for row in rows] == [1000.0, 1001.0]
    for row, each in zip(rows, kept, strict=True):
        assert {name: getattr(row, name) for name in each.__struct_fields__} == {
            name: getattr(each, name) for name in each.__struct_fields__
        }
    assert records.lost == 0


def test_store_is_opened_again(store: str) -> None:
    """A second life of the hub goes on in the same store."""
    for number in range(2):
        records = Records(f"sqlite:///{store}")
        records.store(record(id=str(number)), 1000.0)
        records.close()
    assert [row.id for row in read_rows(store)] == ["0", "1"]


def test_what_a_node_tells_twice_is_kept_once(store: str) -> None:
    """Also after a restart of the hub; failures that no node had are rows of their own, whatever their id."""
    for _ in range(2):
        records = Records(store)
        for name in ("1", "2"):
            records.store(record(id=name, attempts=0), 1000.0)
        records.store(record(id="1", attempts=0, node="other"), 1000.0)
        records.store(record(id="1", attempts=0, node=None, outcome="no_node"), 1000.0)
        records.store(record(id="1", attempts=1), 1000.0)
        records.close()
    kept = sorted((row.id, row.attempts, str(row.node)) for row in read_rows(store))
    twice = [("1", 0, "None"), ("1", 1, "a")]
    assert kept == sorted([("1", 0, "a"), ("2", 0, "a"), ("1", 0, "other"), *twice, *twice])


def test_since(store: str) -> None:
    """Only what ended in the window is read."""
    records = Records(store)
    for number in range(10):
        records.store(record(id=str(number)), 1000.0 + number)
    records.close()
    assert [row.id for row in read_rows(store, since_s=1007.0)] == ["7", "8", "9"]


def test_one_question(store: str) -> None:
    """The last row of an id, or of all; none where there is none."""
    records = Records(store)
    for number, question_id in enumerate("abab"):
        records.store(record(id=question_id, total_ms=float(number)), 1000.0)
    records.close()
    for question_id, total_ms in (("a", 2.0), ("b", 3.0), (None, 3.0)):
        row = read_question(store, question_id)
        assert row is not None
        assert row.total_ms == total_ms
    assert read_question(store, "c") is None


def test_reader_beside_the_writer(store: str) -> None:
    """A report reads while the hub writes."""
    records = Records(store)
    written = 0
    while not (rows := read_rows(store)):
        records.store(record(id=str(written)), 1000.0)
        written += 1
    records.close()
    assert 0 < len(rows) <= written == len(read_rows(store))


def test_full_queue_loses_and_counts(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is held up, `store` does not wait: what does not fit is counted as lost."""
    monkeypatch.setattr("hub.records._QUEUE_ROWS", 5)
    held = threading.Event()
    monkeypatch.setattr("hub.records.Records._write", lambda self, rows: held.wait())
    records = Records(store)
    for number in range(100):
        records.store(record(id=str(number)), 1000.0)
    lost = records.lost
    held.set()
    records.close()
    assert 100 - 5 - 5 <= lost <= 100 - 5


def test_database_that_refuses(store: str) -> None:
    """When writing fails, rows are counted as lost and the writer goes on."""
    records = Records(store)
    with sqlite3.connect(store) as connection:
        connection.execute("ALTER TABLE questions RENAME TO hidden")
    records.store(record(id="1"), 1000.0)
    while not records.lost:
        pass
    with sqlite3.connect(store) as connection:
        connection.execute("ALTER TABLE hidden RENAME TO questions")
    records.store(record(id="2"), 1000.0)
    records.close()
    assert records.lost == 1
    assert [row.id for row in read_rows(store)] == ["2"]


def test_one_bad_row_does_not_take_others_along(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that the database cannot hold is lost alone."""
    from sqlalchemy.exc import DataError

    real = Records._write

    def write(self: Records, rows: list[dict[str, object]]) -> None:
        if any(row["id"] == "bad" for row in rows):
            raise DataError("INSERT", {}, Exception("cannot hold it"))
        real(self, rows)

    monkeypatch.setattr(Records, "_write", write)
    records = Records(store)
    for question_id in ("1", "bad", "2"):
        records.store(record(id=question_id), 1000.0)
    records.close()
    assert records.lost == 1
    assert [row.id for row in read_rows(store)] == ["1", "2"]


def test_newer_schema_is_refused(store: str) -> None:
    """Neither reading nor writing touches a store of a version that is not known."""
    Records(store).close()
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE edgefleet_schema SET version = 99")
    for use in (Records, read_rows):
        with pytest.raises(StoreError, match="schema 99, this edgefleet knows 2"):
            use(store)


@pytest.mark.parametrize("store_name", ["missing.sqlite", "nowhere/fleet.sqlite"])
def test_missing_store(tmp_path: Path, store_name: str) -> None:
    """Reading creates nothing and says in one line where there is nothing."""
    with pytest.raises(StoreError, match="there is no record store at") as caught:
        read_rows(str(tmp_path / store_name))
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
            read_rows(str(path))
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before


@pytest.mark.parametrize("url", ["nosuchdb://host/x", "sqlite:///no/such/folder/x.sqlite"])
def test_store_that_cannot_be_opened(url: str) -> None:
    """An unknown kind of database or an impossible place is one line."""
    with pytest.raises(StoreError) as caught:
        Records(url)
    assert "\n" not in str(caught.value)


def test_password_is_not_shown() -> None:
    """A store's URL may hold a password: no message does."""
    with pytest.raises(StoreError) as caught:
        Records("nosuchdb://me:secret@host/x")
    assert "secret" not in str(caught.value)


OLD_STORE = """
CREATE TABLE edgefleet_schema (version INTEGER NOT NULL);
INSERT INTO edgefleet_schema VALUES (1);
CREATE TABLE questions (seq INTEGER NOT NULL, wall_time_s FLOAT NOT NULL, device VARCHAR(64) NOT NULL,
  id VARCHAR(128) NOT NULL, hub VARCHAR(64) NOT NULL, outcome VARCHAR(16) NOT NULL, node VARCHAR(64),
  bundle VARCHAR(256), model VARCHAR(256), task TEXT NOT NULL, attempts INTEGER NOT NULL, duplicates INTEGER NOT NULL,
  question_bytes INTEGER NOT NULL, prompt_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL,
  completion_tokens BIGINT NOT NULL, predicted_ms FLOAT, total_ms FLOAT NOT NULL, network_ms FLOAT NOT NULL,
  queue_ms FLOAT NOT NULL, prefill_ms FLOAT NOT NULL, decode_ms FLOAT NOT NULL, decisions TEXT NOT NULL,
  PRIMARY KEY (seq));
INSERT INTO questions VALUES (1, 1000.0, 'kitchen', 'old', 'hub', 'answered', 'a', 'b', 'm', 't', 1, 0, 20, 37, 0, 8,
  110.0, 100.0, 10.0, 5.0, 45.0, 40.0, '[]');
"""


def test_store_of_the_version_before(store: str) -> None:
    """It is read as it is, and brought up to date by whoever writes: its rows stay, and new ones follow."""
    with sqlite3.connect(store) as connection:
        connection.executescript(OLD_STORE)
    before = Path(store).read_bytes()
    assert [(row.id, row.hedged) for row in read_rows(store)] == [("old", False)]
    assert Path(store).read_bytes() == before
    for question_id in ("new", "newer"):
        records = Records(store)
        records.store(record(id=question_id, hedged=True), 2000.0)
        records.close()
    assert [(row.id, row.hedged) for row in read_rows(store)] == [("old", False), ("new", True), ("newer", True)]


def test_hubs_that_start_together_share_a_store(tmp_path: Path) -> None:
    """One of them creates the tables, the others find them; every row is kept."""
    hubs, rounds = 6, 5
    errors: list[BaseException] = []

    def serve(store: str, number: int, together: threading.Barrier) -> None:
        together.wait(10)
        try:
            records = Records(store)
        except BaseException as error:  # shown by the assertion
            errors.append(error)
            return
        records.store(record(id=str(number), hub=f"h{number}"), 1000.0)
        records.close()

    for turn in range(rounds):
        store, together = str(tmp_path / f"{turn}.sqlite"), threading.Barrier(hubs)
        threads = [threading.Thread(target=serve, args=(store, number, together)) for number in range(hubs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert sorted(row.id for row in read_rows(store)) == [str(number) for number in range(hubs)]
