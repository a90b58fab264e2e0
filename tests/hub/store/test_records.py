"""Records are written in the background: in order, each once, and counted where they are not."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hub import events, wire
from hub.decision import Decision, Rejected, Terms
from hub.errors import StoreAway, StoreError
from hub.report.filter import Filter
from hub.store import batch
from hub.store.database import Database
from hub.store.numbers import heard_before
from hub.store.reading import read_history
from hub.store.records import Kept, Records
from hub.store.retention import Retention
from hub.store.tables import questions
from tests.hub.rows import record
from tests.hub.store.kept import keep, rows_of
from tests.postgresql import PostgreSQL

TERMS = Terms(
    node="a", bundle="b", network_ms=1.0, wait_ms=2.0, fixed_ms=3.0, prefill_ms=4.0, decode_ms=5.0,
    prompt_tokens=6.0, completion_tokens=7.0,
)  # fmt: skip
DECISION = Decision(
    device="kitchen", id="q", attempt=1, chosen=TERMS, candidates=(TERMS,), rejected=(Rejected("b", "x"),)
)


@contextlib.contextmanager
def held_up(store: str) -> Iterator[None]:
    """Somebody else writes into this SQLite store, and takes long."""
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_records_come_back_whole(store: str) -> None:
    """What is kept is read back equal, in order, with its wall time; closing writes what is queued."""
    kept = [
        record(id="1", decisions=(DECISION,), node_life=2**40, node_number=3, second="hedge", second_won=True),
        record(id="2", node=None, bundle=None, model=None, predicted_ms=None),
        record(id="3", attempts=0, local=True, overhead_ms=1.5, answer_bytes=7, partial=True),
    ]
    records = keep(store, *kept)
    rows = rows_of(store)
    assert [row.wall_time_s for row in rows] == [1000.0, 1001.0, 1002.0]
    for row, each in zip(rows, kept, strict=True):
        assert {name: getattr(row, name) for name in each.__struct_fields__} == {
            name: getattr(each, name) for name in each.__struct_fields__
        }
    assert (records.kept().written, records.kept().lost, records.kept().waiting) == (3, 0, 0)


def test_store_is_opened_again(store: str) -> None:
    """A second life of the hub goes on in the same store."""
    for name in ("0", "1"):
        keep(store, record(id=name))
    assert [row.id for row in rows_of(store)] == ["0", "1"]


def test_reader_beside_the_writer(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """A report, which is a process of its own, reads while the hub writes."""
    store = str(tmp_path / "fleet.sqlite")
    records = Records(store, "hub")
    count = "import sys; from hub.store.reading import *; print(len(read_history(sys.argv[1], Filter())[0]))"
    for number in range(3000):
        records.store(record(id=str(number)), 1000.0)
    eventually(lambda: records.kept().written)
    done = subprocess.run([sys.executable, "-c", count, store], capture_output=True, text=True, check=True)
    records.close()
    assert 0 < int(done.stdout) <= 3000 == len(read_history(store, Filter())[0])


def test_full_queue_loses_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """While the database is held up, `store` does not wait: what does not fit is counted, and told with the next."""
    monkeypatch.setattr("hub.store.records._QUEUE_ROWS", 5)
    store = str(tmp_path / "fleet.sqlite")
    records = Records(store, "hub")
    with held_up(store):
        for number in range(100):
            records.store(record(id=str(number)), 1000.0)
        lost = records.kept().lost
    records.close()
    history, missing = read_history(store, Filter())
    assert 100 - 5 - 5 <= lost == records.kept().lost == missing.lost <= 100 - 5
    assert len(history) == records.kept().written == 100 - lost
    assert missing.why == ("hub hub: the queue of records is full",)


@pytest.mark.postgresql
def test_database_that_is_away_for_a_while(postgresql: PostgreSQL, eventually: Callable[..., None]) -> None:
    """Records wait until it is there again; none is lost, and routing does not notice."""
    records = Records(postgresql.url, "hub")
    records.store(record(id="before"), 1000.0)
    eventually(lambda: records.kept().written == 1)
    postgresql.stop()
    for number in range(10):
        records.store(record(id=f"away-{number}"), 1001.0)
    postgresql.start()
    eventually(lambda: records.kept().written == 11, limit_s=30)
    records.close()
    assert records.kept().lost == 0
    assert len(rows_of(postgresql.url)) == 11


@pytest.mark.postgresql
def test_database_that_is_away_when_a_hub_starts(postgresql: PostgreSQL, eventually: Callable[..., None]) -> None:
    """After a power cut a hub may be there before its database: it routes, and its records wait."""
    postgresql.stop()
    records = Records(postgresql.url, "hub")
    with pytest.raises(StoreAway):
        heard_before(postgresql.url)
    records.store(record(id="1"), 1000.0)
    postgresql.start()
    eventually(lambda: records.kept().written == 1, limit_s=30)
    records.close()
    assert [row.id for row in rows_of(postgresql.url)] == ["1"]


@pytest.mark.postgresql
def test_database_that_stays_away(postgresql: PostgreSQL) -> None:
    """A hub that ends does not wait for it long, and counts what it could not write."""
    records = Records(postgresql.url, "hub")
    postgresql.stop()
    for number in range(1500):
        records.store(record(id=str(number)), 1000.0)
    records.close()
    assert records.kept().lost == 1500
    postgresql.start()
    assert rows_of(postgresql.url) == []


FULL_DISK = """
import resource, signal, sys
from hub.store.records import Records
from tests.hub.rows import record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
records = Records(sys.argv[1], "hub")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
for number in range(5000):
    records.store(record(id=str(number)), 1000.0)
records.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
kept = records.kept()
again = Records(sys.argv[1], "hub")
again.store(record(id="after"), 2000.0)
again.close()
print(kept.written, kept.lost, again.kept().written)
"""


def test_full_disk(tmp_path: Path) -> None:
    """Where no file may grow any more, what does not fit is counted as lost; the store stays whole, and in use."""
    store = str(tmp_path / "fleet.sqlite")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, store], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    written, lost, after = map(int, done.stdout.split())
    assert lost > 0
    assert written + lost == 5000
    assert after == 1
    assert [row.id for row in rows_of(store)] == [*(str(number) for number in range(written)), "after"]
    with sqlite3.connect(store) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_was_lost_is_told_where_nothing_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that ends says what it could not keep, if the store takes that much."""
    monkeypatch.setattr("hub.store.records._QUEUE_ROWS", 3)
    store = str(tmp_path / "fleet.sqlite")
    records = Records(store, "hub")
    with held_up(store):
        for number in range(50):
            records.store(record(id=str(number)), 1000.0)
        lost = records.kept().lost
    records.close()
    assert read_history(store, Filter())[1].lost == lost > 0


@pytest.mark.postgresql
def test_a_hub_ends_soon_with_much_to_write(postgresql: PostgreSQL) -> None:
    """A database that is away is tried for some seconds in all, not for each batch; its thread ends, too."""
    records = Records(postgresql.url, "hub")
    postgresql.stop()
    records.note(events.AskerHeard(device="kitchen", earlier=(wire.Earlier(id="1", total_ms=1.0),)), 1000.0)
    for number in range(20_000):
        records.store(record(id=str(number)), 1000.0)
    start = time.monotonic()
    records.close()
    assert time.monotonic() - start < 30  # 40 batches
    assert (records.kept().written, records.kept().waiting) == (0, 0)
    assert not records._thread.is_alive()


def test_the_log_has_the_last_word_on_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All that a hub could not write by its end stands there, though the log does not speak of each batch."""
    monkeypatch.setattr("hub.store.records._CLOSE_S", 0.0)

    def full(*_: Any) -> int:
        raise sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr("hub.store.records.write", full)
    records = keep(str(tmp_path / "fleet.sqlite"), *(record(id=str(number)) for number in range(1200)))
    assert records.kept().lost == 1200
    assert "1200 records lost in all: " in caplog.text


def test_a_hub_that_ends_waits_for_a_slow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes a batch now and then is not away: all that is queued is written, however long it takes."""
    monkeypatch.setattr("hub.store.records._CLOSE_S", 0.5)

    def slow(*written: Any) -> int:
        time.sleep(0.2)
        return batch.write(*written)

    monkeypatch.setattr("hub.store.records.write", slow)
    records = keep(str(tmp_path / "fleet.sqlite"), *(record(id=str(number)) for number in range(3000)))
    assert records.kept() == Kept(written=3000, lost=0, waiting=0)


def test_a_row_that_another_hub_has_just_written_is_not_lost(store: str) -> None:
    """It is found at the second look, also where it comes alone."""
    answer = record(id="1", node_life=1, node_number=1)
    keep(store, answer)
    looked: list[bool] = []

    def known(*_: object) -> set[tuple[object, ...]]:
        looked.append(True)
        return set() if len(looked) == 1 else {("a", 1, 1)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hub.store.batch._known_numbers", known)
        patch.setattr("hub.store.batch._known_rows", lambda *_: {})
        records = keep(store, answer)
    assert (records.kept().lost, records.kept().written, len(rows_of(store))) == (0, 0, 1)


@pytest.mark.postgresql
@pytest.mark.parametrize("wrong", ["/nowhere", "postgresql://nobody@"])
def test_a_database_that_refuses_us_is_no_database_that_is_away(postgresql: PostgreSQL, wrong: str) -> None:
    """A wrong name is for whoever starts the hub to mend."""
    url = postgresql.url.replace("/fleet", wrong) if wrong.startswith("/") else wrong + postgresql.url.split("@")[1]
    with pytest.raises(StoreError, match=r"nowhere|nobody") as caught:
        Records(url, "hub")
    assert not isinstance(caught.value, StoreAway)


def test_one_bad_record_does_not_take_others_along(store: str) -> None:
    """A record that the database cannot hold is lost alone."""
    records = keep(
        store, record(id="1"), record(id="bad", prompt_tokens="x\0" if "://" in store else None), record(id="2")
    )
    assert (records.kept().lost, [row.id for row in rows_of(store)]) == (1, ["1", "2"])


@pytest.mark.parametrize("url", ["nosuchdb://host/x", "sqlite:///no/such/folder/x.sqlite"])
def test_store_that_cannot_be_opened(url: str) -> None:
    """An unknown kind of database or an impossible place is one line."""
    with pytest.raises(StoreError) as caught:
        Records(url, "hub")
    assert "\n" not in str(caught.value)


def test_hubs_that_start_together_share_a_store(store: str) -> None:
    """One of them creates the tables, the others find them; every record is kept."""
    hubs = 6
    errors: list[BaseException] = []

    def serve(number: int, together: threading.Barrier) -> None:
        together.wait(10)
        try:
            records = Records(store, f"h{number}")
            records.store(record(id=str(number), hub=f"h{number}"), 1000.0)
            records.close()
        except BaseException as error:  # shown by the assertion
            errors.append(error)

    together = threading.Barrier(hubs)
    threads = [threading.Thread(target=serve, args=(number, together)) for number in range(hubs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(row.id for row in rows_of(store)) == [str(number) for number in range(hubs)]


def test_bounds(store: str, eventually: Callable[..., None]) -> None:
    """A hub's store is brought to as many rows as it was told, the newest."""
    records = keep(store, *(record(id=str(number)) for number in range(3000)), rows=700)
    assert records.kept().written == 3000
    again = Records(store, "hub", Retention(rows=700))
    database = Database(store, writing=False)

    def count() -> int:
        with database.engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(questions)).scalar_one())

    eventually(lambda: count() == 700)
    database.engine.dispose()
    again.close()
    assert [int(row.id) for row in rows_of(store)] == list(range(2300, 3000))
