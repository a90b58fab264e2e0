"""Keeps what this node answered on its own until a hub has it: SQLite, through power cuts and broken cables.

`keep` puts a record into a bounded queue and returns at once; one thread writes, hands batches to `send`, and forgets
what a hub has confirmed. A batch that nobody confirms is sent again, with the same number, so that a hub can tell it
from a new one. At most `most_rows` wait, the oldest go first; what is lost is counted. Knows nothing of MQTT.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.errors import InputError
from hub import wire

log = logging.getLogger(__name__)

SCHEMA: Final = 1
MOST_ROWS: Final = 100_000  # some 50 MB
BATCH: Final = 100
RETRY_S: Final = 5.0  # a batch that was not confirmed is sent again
_QUEUE_ROWS: Final = 10_000
_TABLE: Final = "CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY AUTOINCREMENT, ended_s REAL, record BLOB)"

_decoder = msgspec.json.Decoder(wire.OwnRecord)

Send = Callable[[int, tuple[wire.OwnRecord, ...]], None]


class _Kept(msgspec.Struct, frozen=True):
    """A hub has confirmed all records up to `seq`."""

    seq: int


class _Online(msgspec.Struct, frozen=True):
    """Whether there is a hub to send to."""

    is_online: bool


class _New(msgspec.Struct, frozen=True):
    """To be kept; `ended_s` is wall time, which outlives a restart."""

    ended_s: float
    record: wire.OwnRecord


_Item = _New | _Kept | _Online


class Store:
    """The records of one node in the file `path`. `send(seq, records)` is called from the thread, while `online`."""

    def __init__(self, path: Path, send: Send, *, most_rows: int = MOST_ROWS) -> None:
        """Open or create the file. Raises InputError where it cannot be, or is none of ours."""
        self._send = send
        self._most_rows = most_rows
        self._queue: queue.Queue[_Item | None] = queue.Queue(_QUEUE_ROWS)
        self._is_online = False
        self._lock = threading.Lock()
        self._lost = 0
        self._sent: tuple[int, float] | None = None  # the last number of the batch under way, and when to send it again
        self._connection = _opened(path)
        self._waiting: int = self._connection.execute("SELECT COUNT(*) FROM records").fetchone()[0]
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records that no hub has confirmed yet."""
        return self._waiting + self._queue.qsize()

    @property
    def lost(self) -> int:
        """Records that could not be kept."""
        with self._lock:
            return self._lost

    def keep(self, record: wire.OwnRecord) -> None:
        """Keep this, which has just ended; never waits."""
        try:
            self._queue.put_nowait(_New(time.time(), record))
        except queue.Full:
            self._lose(1, "the queue of records is full")

    def confirmed(self, seq: int) -> None:
        """A hub has the batch `seq`."""
        with contextlib.suppress(queue.Full):  # then it is sent again, and confirmed again
            self._queue.put_nowait(_Kept(seq))

    def online(self, is_online: bool) -> None:
        """Whether there is a hub to send to."""
        with contextlib.suppress(queue.Full):  # said again at the next change
            self._queue.put_nowait(_Online(is_online))

    def close(self) -> None:
        """Write what is queued, then end."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    # --- in the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.closing(self._connection):
            going_on = True
            while going_on:
                items, going_on = self._next()
                self._keep([item for item in items if isinstance(item, _New)])
                for item in items:
                    if isinstance(item, _Online):
                        self._is_online, self._sent = item.is_online, None
                    elif isinstance(item, _Kept):
                        self._forget(item.seq)
                if going_on:
                    self._send_next()

    def _next(self) -> tuple[list[_Item], bool]:
        """What has come; waits for the first of it, or until a batch is to be sent again. False at the end."""
        items: list[_Item] = []
        limit_s = None if self._sent is None else max(self._sent[1] - time.monotonic(), 0.0)
        try:
            item = self._queue.get(timeout=limit_s)
            while True:
                if item is None:
                    return items, False
                items.append(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            return items, True

    def _keep(self, new: list[_New]) -> None:
        if not new:
            return
        try:
            self._write(new)
        except sqlite3.Error as error:  # a full disk, most likely: answers go on
            self._lose(len(new), str(error))

    def _write(self, new: list[_New]) -> None:
        with self._connection:
            self._connection.executemany(
                "INSERT INTO records (ended_s, record) VALUES (?, ?)",
                [(one.ended_s, wire.encode(one.record)) for one in new],
            )
            self._waiting += len(new)
            if (over := self._waiting - self._most_rows) > 0:
                oldest = "SELECT seq FROM records ORDER BY seq LIMIT ?"
                self._connection.execute(f"DELETE FROM records WHERE seq IN ({oldest})", (over,))  # noqa: S608
                self._waiting -= over
                self._lose(over, f"{self._most_rows} records wait already")

    def _forget(self, seq: int) -> None:
        if self._sent is None or seq != self._sent[0]:
            return
        with contextlib.suppress(sqlite3.Error), self._connection:  # else it is sent again, and confirmed again
            self._waiting -= self._connection.execute("DELETE FROM records WHERE seq <= ?", (seq,)).rowcount
            self._sent = None

    def _send_next(self) -> None:
        """The oldest records, if there is a hub and it is time. Their age is by the wall clock, and never negative."""
        if not self._is_online or not self._waiting:
            self._sent = None
            return
        now = time.monotonic()
        if self._sent is not None and now < self._sent[1]:
            return
        last = self._sent[0] if self._sent is not None else None
        try:
            rows = self._oldest(last)
        except sqlite3.Error as error:
            log.warning("records that wait cannot be read: %s", error)
            return
        self._sent = None
        if rows:
            self._sent = rows[-1][0], now + RETRY_S
            records = (_aged(record, ended_s) for _, ended_s, record in rows)
            self._send(rows[-1][0], tuple(one for one in records if one is not None))

    def _oldest(self, up_to: int | None) -> list[tuple[int, float, bytes]]:
        """The same batch as before, if one is under way."""
        query = "SELECT seq, ended_s, record FROM records WHERE seq <= ? ORDER BY seq LIMIT ?"
        return self._connection.execute(query, (2**62 if up_to is None else up_to, BATCH)).fetchall()

    def _lose(self, rows: int, why: str) -> None:
        if not rows:
            return
        with self._lock:
            self._lost += rows
            lost = self._lost
        log.warning("%d records of this node lost so far: %s", lost, why)


def _opened(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # what is committed outlives a power cut
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA):
            raise InputError(
                f"{path} has schema {version}, this edgefleet knows {SCHEMA}: "
                "use the version of edgefleet that wrote it, or another --records"
            )
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA user_version={SCHEMA}")
        connection.commit()
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"records cannot be kept in {path}: {error}: choose another --records") from None
    return connection


def _aged(record: bytes, ended_s: float) -> wire.OwnRecord | None:
    try:
        ago_ms = min(max((time.time() - ended_s) * 1000, 0.0), 1e12)
        return msgspec.structs.replace(_decoder.decode(record), ago_ms=round(ago_ms))
    except msgspec.DecodeError:
        return None  # a damaged row: it goes with its batch
