"""Records wait through restarts, go out once, in order, and never stop anybody."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent import store as module
from edge_agent.errors import InputError
from edge_agent.store import BATCH, Store
from hub import wire


def record(number: int) -> wire.OwnRecord:
    return wire.OwnRecord(
        device="d", id=str(number), bundle="b", model="m", task="text-generation", outcome="answered", ago_ms=0,
        total_ms=5.0,
    )  # fmt: skip


class Hub:
    """Takes what is sent, and confirms it where it is told to."""

    def __init__(self, *, confirms: bool = True) -> None:
        self.confirms = confirms
        self.batches: list[tuple[int, list[str]]] = []
        self.ages: list[float] = []
        self.store: Store | None = None

    def send(self, seq: int, records: tuple[wire.OwnRecord, ...]) -> None:
        self.batches.append((seq, [one.id for one in records]))
        self.ages += [one.ago_ms for one in records]
        if self.confirms and self.store is not None:
            self.store.confirmed(seq)

    @property
    def ids(self) -> list[int]:
        return [int(one) for _, batch in self.batches for one in batch]


def opened(path: Path, hub: Hub, **options: int) -> Store:
    hub.store = Store(path, hub.send, **options)
    return hub.store


def test_records_wait_for_a_hub_and_go_out_once(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """Kept while there is none, also through a restart; then in order, and never again."""
    path, hub = tmp_path / "state" / "records.db", Hub()
    first = opened(path, hub)
    for number in range(250):
        first.keep(record(number))
    first.close()
    assert hub.batches == []

    second = opened(path, hub)
    second.keep(record(250))
    second.online(True)
    eventually(lambda: second.waiting == 0)
    second.close()
    assert hub.ids == list(range(251))
    assert max(len(batch) for _, batch in hub.batches) == BATCH
    third = opened(path, hub)
    third.online(True)
    third.close()
    assert len(hub.ids) == 251


def test_what_is_not_confirmed_is_sent_again_with_its_number(
    tmp_path: Path, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub can tell it from a new one; a confirmation of something else changes nothing."""
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    hub = Hub(confirms=False)
    store = opened(tmp_path / "r.db", hub)
    store.online(True)
    store.keep(record(1))
    eventually(lambda: len(hub.batches) > 2)
    assert len({seq for seq, _ in hub.batches}) == 1
    store.keep(record(2))
    store.confirmed(999)
    before = len(hub.batches)
    eventually(lambda: len(hub.batches) > before + 1)
    assert hub.batches[-1] == hub.batches[0]
    hub.confirms = True
    eventually(lambda: store.waiting == 0)
    assert hub.ids[-1] == 2
    store.close()


def test_a_hub_that_goes_away_is_not_sent_to(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """The next one gets the same batch."""
    hub = Hub(confirms=False)
    store = opened(tmp_path / "r.db", hub)
    store.online(True)
    store.keep(record(1))
    eventually(lambda: len(hub.batches) == 1)
    store.online(False)
    store.keep(record(2))
    eventually(lambda: store.waiting == 2 and not store._queue.qsize())
    assert len(hub.batches) == 1
    hub.confirms = True
    store.online(True)
    eventually(lambda: store.waiting == 0)
    assert hub.ids == [1, 1, 2]
    store.close()


def test_the_oldest_go_where_there_are_too_many(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """And are counted."""
    hub = Hub()
    store = opened(tmp_path / "r.db", hub, most_rows=10)
    for number in range(25):
        store.keep(record(number))
    eventually(lambda: store.lost == 15)
    assert store.waiting == 10
    store.online(True)
    eventually(lambda: store.waiting == 0)
    assert hub.ids == list(range(15, 25))
    store.close()


def test_a_full_disk_loses_records_and_nothing_else(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """Counted; what comes when there is room again is kept."""
    hub = Hub()
    store = opened(tmp_path / "r.db", hub)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count={pages}")
    for number in range(200):
        store.keep(record(number))
    eventually(lambda: store.lost > 0 and not store._queue.qsize())
    store._connection.execute("PRAGMA max_page_count=100000")
    store.keep(record(777))
    store.online(True)
    eventually(lambda: 777 in hub.ids)
    store.close()


def test_a_stuck_disk_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded: beyond it records are lost at once."""
    monkeypatch.setattr(module, "_QUEUE_ROWS", 5)
    stuck = threading.Event()
    monkeypatch.setattr(Store, "_write", lambda self, new: stuck.wait(10))
    store = opened(tmp_path / "r.db", Hub())
    for number in range(100):
        store.keep(record(number))
    assert store.lost >= 90
    stuck.set()
    store.close()


def test_age_is_by_the_wall_clock_and_never_negative(
    tmp_path: Path, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It outlives a restart; a clock that was set back makes nothing younger than now."""
    path, hub = tmp_path / "r.db", Hub()
    store = opened(path, hub)
    store.keep(record(1))
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE records SET ended_s = ended_s - 3600")
    store = opened(path, hub)
    store.keep(record(2))
    eventually(lambda: store.waiting == 2 and not store._queue.qsize())
    store._connection.execute("UPDATE records SET ended_s = ended_s + 9000 WHERE seq = 2")
    store.online(True)
    eventually(lambda: len(hub.ages) == 2)
    store.close()
    assert 3_600_000 <= hub.ages[0] < 3_700_000
    assert hub.ages[1] == 0


def test_a_damaged_row_goes_with_its_batch(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """The others of it are sent."""
    path, hub = tmp_path / "r.db", Hub()
    store = opened(path, hub)
    for number in range(3):
        store.keep(record(number))
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE records SET record = x'7b' WHERE seq = 2")
    store = opened(path, hub)
    store.online(True)
    eventually(lambda: store.waiting == 0)
    store.close()
    assert hub.ids == [0, 2]


@pytest.mark.parametrize("content", [b"this is no database, but long enough to look like one" * 100, None])
def test_what_is_no_store_of_ours_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """A file of something else, and one that a newer edgefleet wrote."""
    path = tmp_path / "r.db"
    if content is None:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version=7")
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="another --records"):
        opened(path, Hub())
