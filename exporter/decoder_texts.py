"""Which texts come from files, for a text generator: what it learns from, what judges it, and questions with answers.

What no file gives is sampled from the model (`text.py`). Does not know how anything is scored.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from exporter.errors import CalibrationError
from exporter.graded import Graded, read_graded, refuse_few
from exporter.order import Order
from exporter.text import Text, apart, halves, judged, rows_from_file

MIN_CALIBRATION_TOKENS: Final = 256  # fewer say little of how a layer's inputs move together


class GivenTexts(msgspec.Struct, frozen=True, kw_only=True):
    """None is what has to be sampled. `questions` judge beside `evaluation`, never instead of it."""

    calibration: Text | None = None
    evaluation: Text | None = None
    questions: Graded | None = None


def given_texts(order: Order, tokenizer: Any) -> GivenTexts:
    """What `--calibration` and `--eval` hold; a calibration file alone is halved.

    Raises CalibrationError: unreadable, of another task, too little for a verdict, or nothing left to learn from.
    """
    questions = calibration = evaluation = None
    if order.evaluation is not None:
        graded = read_graded(order.evaluation)
        if graded.kind == "text":
            evaluation = rows_from_file(order.evaluation, tokenizer)
        elif graded.kind == "questions":
            refuse_few(graded, order.evaluation)
            questions = graded
        else:
            raise CalibrationError(
                f"{order.evaluation} holds {graded.kind}: a text generator is judged on rows with "
                '{"question", "answers"} or {"text"}'
            )
    if order.calibration is not None:
        asked = [] if questions is None else [row.text for row in questions.rows]
        calibration = rows_from_file(order.calibration, tokenizer, without=asked)
        if evaluation is not None:
            calibration = apart(calibration, evaluation, order.calibration)
        elif questions is None:
            calibration, evaluation = halves(calibration, order.calibration)
        if calibration.scored_tokens < MIN_CALIBRATION_TOKENS:
            raise CalibrationError(
                f"{order.calibration}: {calibration.scored_tokens} tokens of it are left to learn from, at least "
                f"{MIN_CALIBRATION_TOKENS} are needed"
            )
    where = order.evaluation or order.calibration
    if evaluation is not None and where is not None:
        evaluation = judged(evaluation, where)
    return GivenTexts(calibration=calibration, evaluation=evaluation, questions=questions)
