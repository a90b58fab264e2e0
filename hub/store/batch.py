"""Writes one batch of records and notes, in one transaction, each once however often it is told.

Knows nothing of queues and of what is done when the database refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from hub import events
from hub.store.tables import answers_told, decisions, late_answers, losses, questions

BEFORE_S: Final = 600.0  # what a node tells again, or a broker delivers again, ended no longer ago than this
_TOUCH_S: Final = 0.001  # for two questions of which the second begins as the first ends
_encoder = msgspec.json.Encoder()
_COLUMNS: Final = tuple(name for name in events.Record.__struct_fields__ if name in questions.c)

Dated = tuple[events.Record | events.Note, float]  # with the wall time of what it tells
Timed = tuple[events.Record, float]


class Loss(msgspec.Struct, frozen=True):
    """Records that `hub` could not write."""

    hub: str
    records: int
    why: str
    wall_time_s: float


def write(connection: sa.Connection, batch: Sequence[Dated], loss: Loss | None = None) -> int:
    """Write all of it, records first: notes may be about them. How many records are new. Raises SQLAlchemyError."""
    new = _write_rows(connection, [(each, at) for each, at in batch if isinstance(each, events.Record)])
    for note, wall_time_s in batch:
        if isinstance(note, events.AskerHeard):
            _write_heard(connection, note, wall_time_s)
        elif isinstance(note, events.LateAnswer):
            _write_late(connection, note, wall_time_s)
        elif isinstance(note, events.AnswersTold):
            values = {"node": note.node, "life": note.life, "number": note.number, "wall_time_s": wall_time_s}
            connection.execute(answers_told.insert(), values)
    if loss is not None:
        connection.execute(losses.insert(), msgspec.structs.asdict(loss))
    return new


def _write_rows(connection: sa.Connection, records: list[Timed]) -> int:
    new, repeats = _without_repeats(connection, records)
    for record, at in repeats:
        if record.node is not None and record.node_life is not None and record.node_number is not None:
            note = events.LateAnswer(node=record.node, life=record.node_life, number=record.node_number)
            _write_late(connection, note, at)
    if not new:
        return 0
    insert = questions.insert().returning(questions.c.seq, sort_by_parameter_order=True)
    numbers = connection.execute(insert, [_values(record, at) for record, at in new]).scalars().all()
    chosen = [
        {"seq": seq, "decisions": _encoder.encode(record.decisions).decode()}
        for seq, (record, _) in zip(numbers, new, strict=True)
        if record.decisions
    ]
    if chosen:
        connection.execute(decisions.insert(), chosen)
    return len(new)


def _values(record: events.Record, wall_time_s: float) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in _COLUMNS}
    return {**values, "wall_time_s": wall_time_s}


def _write_heard(connection: sa.Connection, note: events.AskerHeard, wall_time_s: float) -> None:
    """The delays go to the latest row of their id that had begun by then, where nobody has told one yet.

    A device may use its id again for the question that tells them.
    """
    row = questions.c
    for earlier in note.earlier:
        query = sa.select(row.seq, row.wall_time_s - row.total_ms / 1000)
        query = query.where(row.device == note.device, row.id == earlier.id).order_by(row.wall_time_s.desc()).limit(2)
        found = connection.execute(query).all()
        begun_by_s = wall_time_s - earlier.total_ms / 2000
        seq = next((seq for seq, start_s in found if start_s <= begun_by_s or len(found) == 1), None)
        told = {"asker_ms": earlier.total_ms, "asker_first_ms": earlier.first_ms}
        connection.execute(questions.update().where(row.seq == seq, row.asker_ms.is_(None)).values(told))


def _write_late(connection: sa.Connection, note: events.LateAnswer, wall_time_s: float) -> None:
    values = {"node": note.node, "life": note.life, "number": note.number}
    known = sa.select(sa.literal(1)).where(*(late_answers.c[name] == value for name, value in values.items()))
    if connection.execute(known).first() is None:
        connection.execute(late_answers.insert(), {**values, "wall_time_s": wall_time_s})


# --- what is there already --------------------------------------------------------------------------------


class _Known(msgspec.Struct, frozen=True):
    """A row that is there, from `start_s` to `end_s` of the wall clock."""

    node: str | None
    local: bool
    start_s: float
    end_s: float


def _without_repeats(connection: sa.Connection, records: list[Timed]) -> tuple[list[Timed], list[Timed]]:
    """Those that are new, and those whose question has its row: a hub that died, or another one, has written it.

    An answer is known by its number. Two rows of one device and id are one question where they were under way at the
    same time, for an id may be used again; what a node did on its own is known by its id. Of a question that was pieced
    together the time is not known: any row of shortly before is the better one, as it is where the broker has
    delivered a question again to a hub that did not know that it had ended.
    """
    numbers = _known_numbers(connection, [record for record, _ in records])
    known = _known_rows(connection, records)
    new, repeats = [], []
    for record, at in sorted(records, key=lambda each: each[0].partial):  # the whole rows first
        number = record.node, record.node_life, record.node_number
        same = known.setdefault((record.device, record.id), [])
        if record.node_number is not None and number in numbers:
            continue
        if any(_is_repeat(record, at, each) for each in same):
            repeats.append((record, at))
            continue
        numbers.add(number)
        same.append(_Known(record.node, record.local, at - record.total_ms / 1000, at))
        new.append((record, at))
    return new, repeats


def _is_repeat(record: events.Record, at: float, known: _Known) -> bool:
    if record.local or known.local:
        return record.local == known.local and record.node == known.node
    if record.partial:
        return known.end_s >= at - BEFORE_S
    if record.again and known.end_s >= at - record.total_ms / 1000 - BEFORE_S:
        return True
    return at - record.total_ms / 1000 + _TOUCH_S < known.end_s and known.start_s + _TOUCH_S < at


def _known_numbers(connection: sa.Connection, records: Sequence[events.Record]) -> set[tuple[Any, ...]]:
    columns = (questions.c.node, questions.c.node_life, questions.c.node_number)
    numbered: dict[tuple[str | None, int | None], list[int]] = {}
    for record in records:
        if record.node_number is not None:
            numbered.setdefault((record.node, record.node_life), []).append(record.node_number)
    known: set[tuple[Any, ...]] = set()
    for (node, life), numbers in numbered.items():
        query = sa.select(*columns).where(columns[0] == node, columns[1] == life, columns[2].in_(numbers))
        known.update(tuple(found) for found in connection.execute(query))
    return known


def _known_rows(connection: sa.Connection, records: list[Timed]) -> dict[tuple[str, str], list[_Known]]:
    """Rows of the same devices and ids: of what nodes did on their own all, of all else those of shortly before."""
    row = questions.c
    asked = [(record, at) for record, at in records if not record.local]
    earliest_s = min((at - record.total_ms / 1000 for record, at in asked), default=0.0) - BEFORE_S
    known: dict[tuple[str, str], list[_Known]] = {}
    for some, when in (
        (asked, row.wall_time_s >= earliest_s),
        ([(record, at) for record, at in records if record.local], row.local.is_(True)),
    ):
        devices, ids = ({getattr(record, name) for record, _ in some} for name in ("device", "id"))
        if some:
            query = sa.select(row.device, row.id, row.node, row.local, row.wall_time_s, row.total_ms)
            query = query.where(row.id.in_(ids), row.device.in_(devices), when)
            for device, name, node, local, end_s, total_ms in connection.execute(query):
                found = _Known(node, bool(local), end_s - total_ms / 1000, end_s)
                known.setdefault((device, name), []).append(found)
    return known
