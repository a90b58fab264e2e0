"""Which texts is an encoder calibrated and judged on, and which rows of token ids are they?

Texts come from files, or are the sentences of this package; rows are cut by the code that will serve them. A model that
answers questions reads pairs: a question with each window of a passage. Where no questions are given, the first words
of each text are asked of the texts that follow it: no answer makes sense then, but the same one must come out.

Does not know how a row is run, nor how what comes out is scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.errors import RequestError
from edge_agent.manifest import EncoderInfo
from edge_agent.runtime.encoding import Row, TextEncoder
from exporter.errors import CalibrationError
from exporter.graded import MIN_ROWS, Graded, GradedRow, read_graded, refuse_few
from exporter.sentences import sentences
from exporter.text import text_rows

_QUESTION_ANSWERING: Final = "question-answering"
_QUESTION_WORDS: Final = 6  # a question is short, and must leave room for the passage
_PASSAGE_TEXTS: Final = 3  # texts that make a passage where none is given
_GRADED_ROWS: Final[dict[str, tuple[str, str]]] = {  # by task: the kind of file with right answers, and its rows
    "text-classification": ("labels", '{"text", "label"} or {"text"}'),
    _QUESTION_ANSWERING: ("passages", '{"question", "context", "answers"} or {"text"}'),
}


class Item(msgspec.Struct, frozen=True):
    """One text (a passage, where `question` is not None), its rows (windows of a passage, else one), what is right."""

    text: str
    rows: tuple[Row, ...]
    answers: tuple[str, ...] = ()
    question: str | None = None


class EncoderTexts(msgspec.Struct, frozen=True, kw_only=True):
    """What passes learn from, and what judges: no text is in both. `is_graded` tells that right answers are known."""

    calibration: tuple[Row, ...]
    items: tuple[Item, ...]
    is_graded: bool
    origin: str


def encoder_texts(
    cutter: TextEncoder, task: str, encoder: EncoderInfo, *, calibration: Path | None, evaluation: Path | None
) -> EncoderTexts:
    """The texts of `--calibration` and `--eval`, or those of this package, in rows of `cutter`.

    Raises CalibrationError: a file that cannot be used, rows of another task, or nothing left to calibrate on.
    """
    own = sentences()
    if evaluation is None:
        graded = Graded(kind="text", rows=tuple(GradedRow(text) for text in own.evaluation), origin=own.origin)
    else:
        graded = read_graded(evaluation)
        _refuse_other_kinds(graded, task, encoder, evaluation)
        refuse_few(graded, evaluation)
    judging = {row.context or row.text for row in graded.rows}
    learned = own.calibration if calibration is None else text_rows(calibration)
    learned = [text for text in learned if text not in judging]
    if not learned:
        raise CalibrationError(f"{calibration}: every row of it is in the evaluation text too")
    if len(learned) < MIN_ROWS:
        raise CalibrationError(f"{calibration}: rows left to learn from: {len(learned)}, needed: {MIN_ROWS} or more")
    pairs = task == _QUESTION_ANSWERING
    if pairs and graded.kind == "text":
        graded = msgspec.structs.replace(graded, rows=tuple(_asked_of_the_next([row.text for row in graded.rows])))
    taught = list(_asked_of_the_next(learned)) if pairs else [GradedRow(text) for text in learned]
    return EncoderTexts(
        calibration=tuple(row for one in taught for row in _cut(cutter, one, calibration).rows),
        items=tuple(_cut(cutter, one, evaluation) for one in graded.rows),
        is_graded=graded.kind != "text",
        origin=graded.origin,
    )


def _asked_of_the_next(texts: Sequence[str]) -> Iterator[GradedRow]:
    """The first words of each text as the question to the texts behind it; after the last comes the first."""
    for number, text in enumerate(texts):
        following = [texts[(number + step) % len(texts)] for step in range(1, _PASSAGE_TEXTS + 1)]
        yield GradedRow(" ".join(text.split()[:_QUESTION_WORDS]), context=" ".join(following))


def _cut(cutter: TextEncoder, row: GradedRow, path: Path | None) -> Item:
    try:
        if row.context is None:
            return Item(row.text, (cutter.encode(row.text),), row.answers)
        return Item(row.context, tuple(cutter.encode_pair(row.text, row.context)), row.answers, question=row.text)
    except RequestError as error:
        raise CalibrationError(f"{path or 'sentences of edgefleet'}: {row.text[:40]!r}: {error}") from None


def _refuse_other_kinds(graded: Graded, task: str, encoder: EncoderInfo, path: Path) -> None:
    kind, wanted = _GRADED_ROWS.get(task, ("text", '{"text"}'))
    if graded.kind not in ("text", kind):
        raise CalibrationError(f"{path} holds {graded.kind}: a model for {task} is judged on rows with {wanted}")
    if graded.kind == "labels" and (strange := sorted({row.answers[0] for row in graded.rows} - set(encoder.labels))):
        raise CalibrationError(f"{path} has the label {strange[0]!r}, the model has {', '.join(encoder.labels)}")
