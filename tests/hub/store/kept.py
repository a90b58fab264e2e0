"""What a store holds, in few words."""

from __future__ import annotations

from hub.events import Note, Record, Row
from hub.report.filter import Filter
from hub.store.reading import read_history, read_rows
from hub.store.records import Records
from hub.store.retention import Retention

ALL = Filter()


def keep(store: str, *each: Record | Note, at: float = 1000.0, every_s: float = 1.0, **bounds: float) -> Records:
    """One life of a hub that keeps these and ends; its writer, for the counts."""
    records = Records(store, "hub", Retention(**bounds))  # type: ignore[arg-type]
    for number, one in enumerate(each):
        wall_time_s = at + number * every_s
        records.store(one, wall_time_s) if isinstance(one, Record) else records.note(one, wall_time_s)
    records.close()
    return records


def rows_of(store: str, chosen: Filter = ALL) -> list[Row]:
    """The rows of the filter."""
    history, _ = read_history(store, chosen)
    return read_rows(store, history.row.tolist())
