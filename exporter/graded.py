"""What does `--eval` hold: questions with answers, with a passage or without, texts with labels, or plain text?

One file is of one kind; its first row tells which. Does not know how an answer is scored.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Literal

import msgspec

from exporter.errors import CalibrationError
from exporter.text import json_lines, row_of

MIN_ROWS: Final = 10  # fewer say nothing: one answer would be ten points and more
_SHAPES = '{"question": ..., "answers": [...]} (and "context"), {"text": ..., "label": ...} or {"text": ...}'


class GradedRow(msgspec.Struct, frozen=True):
    """A question or text, and what is right: any one of `answers`, the label, or nothing to compare with. `context` is
    the passage that holds a question's answer, for models that read it there.
    """

    text: str
    answers: tuple[str, ...] = ()
    context: str | None = None


class Graded(msgspec.Struct, frozen=True, kw_only=True):
    """A file of rows of one kind, and where it comes from."""

    kind: Literal["questions", "passages", "labels", "text"]
    rows: tuple[GradedRow, ...]
    origin: str


def read_graded(path: Path) -> Graded:
    """Read a JSON Lines file for `--eval`. Raises CalibrationError: unreadable, empty, mixed, or another shape."""
    rows: list[GradedRow] = []
    kinds: dict[str, int] = {}
    digest = hashlib.sha256()
    for number, line in json_lines(path):
        digest.update(line)
        kind, row = _row(path, number, line)
        rows.append(row)
        kinds.setdefault(kind, number)
        if len(kinds) > 1:
            first, other = kinds
            raise CalibrationError(
                f"{path}: line {kinds[first]} is of {first}, line {kinds[other]} of {other}: one kind a file"
            )
    if not rows:
        raise CalibrationError(f"{path} is empty: rows like {_SHAPES} are needed, one a line")
    (kind,) = kinds
    return Graded(kind=kind, rows=tuple(rows), origin=f"{path.name} sha256:{digest.hexdigest()[:12]}")  # type: ignore[arg-type]


def refuse_few(graded: Graded, path: Path) -> None:
    """Raises CalibrationError for fewer rows than a verdict needs."""
    if len(graded.rows) < MIN_ROWS:
        raise CalibrationError(f"{path} has {len(graded.rows)} rows, at least {MIN_ROWS} are needed for a verdict")


def _row(path: Path, number: int, line: bytes) -> tuple[str, GradedRow]:
    row = row_of(line)
    if isinstance(row, dict):
        question, answers, text, label, context = (
            row.get(key) for key in ("question", "answers", "text", "label", "context")
        )
        if isinstance(question, str) and question.strip() and isinstance(answers, list) and answers:
            if all(isinstance(answer, str) and answer.strip() for answer in answers):
                if context is None:
                    return "questions", GradedRow(question, tuple(answers))
                if isinstance(context, str) and context.strip():
                    return "passages", GradedRow(question, tuple(answers), context)
        elif isinstance(text, str) and isinstance(label, str) and label:
            return "labels", GradedRow(text, (label,))
        elif isinstance(text, str) and label is None:
            return "text", GradedRow(text)
    raise CalibrationError(f"{path}: line {number} is none of {_SHAPES}")
