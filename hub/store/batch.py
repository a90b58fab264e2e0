"""Writes one batch of records and notes, in one transaction, each once however often it is told.

Knows nothing of queues and of what is done when the database refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from hub import events
from hub.store.tables import answers_told, decisions, late_answers, losses, questions

_MOST_BOUND: Final = 500  # values in one query: SQLite takes 32,766, and batches are no larger than this
_encoder = msgspec.json.Encoder()
_COLUMNS: Final = tuple(name for name in events.Record.__struct_fields__ if name != "decisions")

Dated = tuple[events.Record | events.Note, float]  # with the wall time of what it tells


class Loss(msgspec.Struct, frozen=True):
    """Records that `hub` could not write."""

    hub: str
    records: int
    why: str
    wall_time_s: float


def write(connection: sa.Connection, batch: Sequence[Dated], loss: Loss | None = None) -> None:
    """Write all of it, records first: notes may be about them. Raises SQLAlchemyError."""
    _write_rows(connection, [(each, at) for each, at in batch if isinstance(each, events.Record)])
    for note, wall_time_s in batch:
        if isinstance(note, events.AskerHeard):
            _write_heard(connection, note)
        elif isinstance(note, events.LateAnswer):
            _write_late(connection, note, wall_time_s)
        elif isinstance(note, events.AnswersTold):
            values = {"node": note.node, "epoch": note.epoch, "number": note.number, "wall_time_s": wall_time_s}
            connection.execute(answers_told.insert(), values)
    if loss is not None:
        connection.execute(losses.insert(), msgspec.structs.asdict(loss))


def _write_rows(connection: sa.Connection, records: list[tuple[events.Record, float]]) -> None:
    new = _without_repeats(connection, records)
    if not new:
        return
    insert = questions.insert().returning(questions.c.seq, sort_by_parameter_order=True)
    numbers = connection.execute(insert, [_values(record, at) for record, at in new]).scalars().all()
    chosen = [
        {"seq": seq, "decisions": _encoder.encode(record.decisions).decode()}
        for seq, (record, _) in zip(numbers, new, strict=True)
        if record.decisions
    ]
    if chosen:
        connection.execute(decisions.insert(), chosen)


def _values(record: events.Record, wall_time_s: float) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in _COLUMNS}
    return {**values, "local": record.is_local, "wall_time_s": wall_time_s}


def _write_heard(connection: sa.Connection, note: events.AskerHeard) -> None:
    """The delays go to the latest row of their id, where nobody has told one yet."""
    for earlier in note.earlier:
        same = sa.and_(questions.c.device == note.device, questions.c.id == earlier.id)
        latest = sa.select(sa.func.max(questions.c.seq)).where(same).scalar_subquery()
        connection.execute(
            questions.update()
            .where(questions.c.seq == latest, questions.c.asker_ms.is_(None))
            .values(asker_ms=earlier.total_ms, asker_first_ms=earlier.first_ms)
        )


def _write_late(connection: sa.Connection, note: events.LateAnswer, wall_time_s: float) -> None:
    values = {"node": note.node, "epoch": note.epoch, "number": note.number}
    known = sa.select(sa.literal(1)).where(*(late_answers.c[name] == value for name, value in values.items()))
    if connection.execute(known).first() is None:
        connection.execute(late_answers.insert(), {**values, "wall_time_s": wall_time_s})


# --- what is there already --------------------------------------------------------------------------------


def _without_repeats(
    connection: sa.Connection, records: list[tuple[events.Record, float]]
) -> list[tuple[events.Record, float]]:
    """All but those that are here already, or come twice: a hub that died may have written them before.

    An answer is known by its number, what a node did on its own by its id; of a question that was pieced together any
    row is the better one.
    """
    numbers = _known_numbers(connection, [record for record, _ in records])
    local = _known_ids(connection, [record for record, _ in records if record.is_local], local=True)
    asked = _known_ids(connection, [record for record, _ in records if record.partial], local=False)
    new = []
    for record, at in sorted(records, key=lambda each: each[0].partial):  # the whole rows first
        number, own = (record.node, record.node_epoch, record.node_number), (record.node, record.id)
        if record.node_number is not None and number in numbers:
            continue
        if (record.is_local and own in local) or (record.partial and (record.device, record.id) in asked):
            continue
        numbers.add(number)
        asked.add((record.device, record.id))
        if record.is_local:
            local.add(own)
        new.append((record, at))
    return new


def _known_numbers(connection: sa.Connection, records: Sequence[events.Record]) -> set[tuple[Any, ...]]:
    columns = (questions.c.node, questions.c.node_epoch, questions.c.node_number)
    numbered: dict[tuple[str | None, int | None], list[int]] = {}
    for record in records:
        if record.node_number is not None:
            numbered.setdefault((record.node, record.node_epoch), []).append(record.node_number)
    known: set[tuple[Any, ...]] = set()
    for (node, epoch), numbers in numbered.items():
        for some in _slices(numbers):
            query = sa.select(*columns).where(columns[0] == node, columns[1] == epoch, columns[2].in_(some))
            known.update(tuple(found) for found in connection.execute(query))
    return known


def _known_ids(connection: sa.Connection, records: Sequence[events.Record], *, local: bool) -> set[tuple[Any, ...]]:
    whose = questions.c.node if local else questions.c.device
    known: set[tuple[Any, ...]] = set()
    for some in _slices([record.id for record in records]):
        query = sa.select(whose, questions.c.id).where(questions.c.id.in_(some), questions.c.local.is_(local))
        known.update(tuple(found) for found in connection.execute(query))
    return known


def _slices(values: list[Any]) -> Iterable[list[Any]]:
    return (values[start : start + _MOST_BOUND] for start in range(0, len(values), _MOST_BOUND))
