"""Writes the records of ended questions, and what is known beside them, without ever holding up who routes.

`Records.store` puts a record into a bounded queue and returns at once; a thread of its own writes batches. A database
that is full or away is tried again while the queue has room; what does not fit is counted as lost, and the count is
written with the next batch that can be.
"""

from __future__ import annotations

import collections
import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from typing import Final

import msgspec
import sqlalchemy as sa

from hub import events
from hub.errors import StoreAway, StoreError
from hub.store.batch import Dated, Loss, write
from hub.store.database import Database, first_line
from hub.store.migrate import bring_up_to_date
from hub.store.retention import Retention, sweep

log = logging.getLogger(__name__)

_BATCH_ROWS: Final = 500
_QUEUE_ROWS: Final = 20_000
_GATHER_S: Final = 0.25
_HEARD_AFTER_S: Final = 1.0  # what an asker tells is written later: its row may come through another hub
_TRY_AGAIN_S: Final = 0.5
_HANG_S: Final = 10.0  # for one try, beyond that
_CLOSE_S: Final = 3.0  # for a database that takes nothing when the hub ends
_SWEEP_EVERY_S: Final = 30.0
_TELL_EVERY_S: Final = 5.0  # of records that were lost, where no others come
_LOG_EVERY_S: Final = 10.0  # of the same, whoever routes must not wait for the log


class Kept(msgspec.Struct, frozen=True):
    """How many records were written and lost so far, and how many wait."""

    written: int
    lost: int
    waiting: int


class Records:
    """The writer of one hub. Records are kept in the order of `store`; those that are not are counted."""

    def __init__(self, store: str, hub: str, retention: Retention = Retention()) -> None:  # noqa: B008 (frozen)
        """Open or create the store, or bring an older one up to date. Raises StoreError.

        A server that does not answer is waited for like one that goes away later: routing begins without it.
        """
        self._database = Database(store, writing=True)
        self._hub = hub
        self._retention = retention
        self._lock = threading.Lock()  # around the counts
        self._written = self._lost = 0
        self._untold = 0  # of the lost, those that the store does not know of
        self._why = ""
        self._unsaid = False  # whether records were lost since the log spoke of them
        self._queue: queue.Queue[Dated] = queue.Queue(_QUEUE_ROWS)
        self._heard: collections.deque[tuple[float, Dated]] = collections.deque()
        self._sweep_at = self._tell_at = self._log_at = 0.0
        self._closing = threading.Event()
        self._close_by = math.inf
        self._is_open = False
        try:
            self._open()
        except StoreAway as error:
            log.warning("%s: records wait for it", error)
        except BaseException:
            self._database.engine.dispose()
            raise
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def kept(self) -> Kept:
        """The counts, from any thread."""
        with self._lock:
            return Kept(self._written, self._lost, self._queue.qsize())

    def store(self, record: events.Record, wall_time_s: float) -> None:
        """Keep one record; never waits."""
        self._put((record, wall_time_s))

    def note(self, note: events.Note, wall_time_s: float) -> None:
        """Keep what is known beside the records, where there is room for it; never waits."""
        self._put((note, wall_time_s))

    def close(self) -> None:
        """Write what is queued, then end. A database that takes nothing is waited for, but only for a few seconds."""
        self._close_by = time.monotonic() + _CLOSE_S
        self._closing.set()
        while self._thread.is_alive() and time.monotonic() < self._close_by + _HANG_S:
            self._thread.join(0.1)
        self._database.engine.dispose()
        if self._unsaid:
            log.warning("%d records lost in all: %s", self._lost, self._why)

    def _put(self, each: Dated) -> None:
        try:
            self._queue.put_nowait(each)
        except queue.Full:
            self._lose([each], "the queue of records is full")

    # --- in the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        for batch in self._batches():
            try:
                if batch or (self._untold and time.monotonic() >= self._tell_at):
                    self._write_in_time(batch)
                if self._is_open and time.monotonic() >= self._sweep_at:
                    self._sweep()
            except Exception as error:  # a bug, or a driver's own: the next batch may do better
                log.exception("keeping records failed")
                self._lose(batch, first_line(error))

    def _batches(self) -> Iterator[list[Dated]]:
        """What has come since the one before, until `close`; now and then an empty one.

        Few large batches: a transaction takes the processor for 2 ms, however little is written in it.
        """
        while not (self._closing.is_set() and self._queue.empty() and not self._heard):
            batch: list[Dated] = []
            try:
                batch.append(self._queue.get(timeout=0.0 if self._closing.is_set() else 0.1))
                if self._queue.qsize() < _BATCH_ROWS:
                    self._closing.wait(_GATHER_S)
                while len(batch) < _BATCH_ROWS:
                    batch.append(self._queue.get_nowait())
            except queue.Empty:
                pass
            if time.monotonic() > self._close_by:
                self._heard.clear()
                self._lose(batch, "the hub has ended")
            else:
                yield self._heard_in_time(batch)
        if self._untold and time.monotonic() <= self._close_by:
            yield []

    def _heard_in_time(self, batch: list[Dated]) -> list[Dated]:
        """The batch, with what askers told some time ago instead of what they tell now."""
        now = time.monotonic()
        self._heard.extend((now, each) for each in batch if isinstance(each[0], events.AskerHeard))
        batch = [each for each in batch if not isinstance(each[0], events.AskerHeard)]
        until = math.inf if self._closing.is_set() and self._queue.empty() else now - _HEARD_AFTER_S
        while self._heard and self._heard[0][0] <= until:
            batch.append(self._heard.popleft()[1])
        return batch

    def _write_in_time(self, batch: list[Dated]) -> None:
        """Write until the database takes it, or until there is neither room nor time for more."""
        tries, waits = 0, False
        while True:
            tries += 1
            try:
                self._commit(batch)
                return
            except (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.ProgrammingError) as error:
                if tries == 1 and isinstance(error, sa.exc.IntegrityError):
                    continue  # another hub has just written one of them: the second look finds it
                self._write_halves(batch, first_line(error))
                return
            except (sa.exc.SQLAlchemyError, StoreAway) as error:
                if self._queue.full() or time.monotonic() > self._close_by:
                    self._lose(batch, first_line(error))
                    return
                if not waits:
                    log.warning("the record store takes nothing, records wait: %s", first_line(error))
                waits = True
                time.sleep(_TRY_AGAIN_S)
            except StoreError as error:  # it is there, and not ours
                self._lose(batch, str(error))
                return

    def _write_halves(self, batch: list[Dated], why: str) -> None:
        """One of them the database cannot hold, ever: find it, and keep the others."""
        if len(batch) <= 1:
            self._lose(batch, why)
            return
        self._write_in_time(batch[: len(batch) // 2])
        self._write_in_time(batch[len(batch) // 2 :])

    def _open(self) -> None:
        if not self._is_open:
            bring_up_to_date(self._database)
            self._is_open = True

    def _commit(self, batch: list[Dated]) -> None:
        """One transaction, with the count of those that were lost before."""
        self._open()
        with self._lock:
            untold, why = self._untold, self._why
        self._tell_at = time.monotonic() + _TELL_EVERY_S
        loss = Loss(self._hub, untold, why, time.time()) if untold else None
        with self._database.engine.begin() as connection:
            new = write(connection, batch, loss)
        if self._closing.is_set():
            self._close_by = time.monotonic() + _CLOSE_S  # it is slow, not away
        with self._lock:
            self._untold -= untold
            self._written += new

    def _sweep(self) -> None:
        try:
            with self._database.engine.begin() as connection:
                more = sweep(connection, self._retention, time.time())
        except sa.exc.SQLAlchemyError as error:
            log.warning("old records stay for now: %s", first_line(error))
            more = False
        self._sweep_at = time.monotonic() + (0.0 if more else _SWEEP_EVERY_S)

    def _lose(self, batch: list[Dated], why: str) -> None:
        records = sum(isinstance(each, events.Record) for each, _ in batch)
        if not records:
            return
        with self._lock:
            self._lost += records
            self._untold += records
            self._why = why
            lost, is_time = self._lost, time.monotonic() >= self._log_at
            self._unsaid = not is_time
            if is_time:
                self._log_at = time.monotonic() + _LOG_EVERY_S
        if is_time:
            log.warning("%d records lost so far: %s", lost, why)
