"""What the files of an order give a text generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.decoder_texts import given_texts
from exporter.errors import CalibrationError
from exporter.order import Order
from tests.exporter.conftest import byte_tokenizer

TEXT = [{"text": f"{n} is followed by {n + 1}, and that by {n + 2}. " * 3} for n in range(120)]
QUESTIONS = [{"question": f"What follows {n}?", "answers": [str(n + 1)]} for n in range(10)]


def order(folder: Path, **rows: list[dict[str, Any]]) -> Order:
    """`rows` of files for `calibration` and `evaluation`."""
    given = {}
    for name, content in rows.items():
        given[name] = folder / f"{name}.jsonl"
        given[name].write_text("".join(json.dumps(row) + "\n" for row in content))
    return Order(model="m", profile="p", output=folder / "o", **given)  # type: ignore[arg-type]


def test_without_files_everything_is_sampled(tmp_path: Path) -> None:
    """Nothing is given."""
    given = given_texts(order(tmp_path), byte_tokenizer())
    assert (given.calibration, given.evaluation, given.questions) == (None, None, None)


def test_a_calibration_file_alone_is_halved(tmp_path: Path) -> None:
    """One half judges."""
    given = given_texts(order(tmp_path, calibration=TEXT), byte_tokenizer())
    assert given.calibration is not None
    assert given.evaluation is not None
    assert not set(given.calibration.rows) & set(given.evaluation.rows)


def test_questions_judge_beside_sampled_text_and_teach_nothing(tmp_path: Path) -> None:
    """A row of calibration text that holds a question is left out; nothing is halved."""
    rows = [*TEXT[:10], {"text": "What follows 3? It is 4." * 20}]
    given = given_texts(order(tmp_path, calibration=rows, evaluation=QUESTIONS), byte_tokenizer())
    assert given.questions is not None
    assert given.evaluation is None
    assert given.calibration is not None
    assert len(given.calibration.rows) == 10


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"evaluation": QUESTIONS[:9]}, "has 9 rows, at least 10"),
        ({"evaluation": TEXT[:2]}, "tokens to score, at least 4096"),
        ({"evaluation": [{"text": "a", "label": "b"}]}, "holds labels: a text generator is judged on"),
        ({"evaluation": [{**QUESTIONS[0], "context": "c"}]}, "holds passages: a text generator is judged on"),
        ({"evaluation": TEXT, "calibration": TEXT[:9]}, "every row of it is in the evaluation text"),
        ({"evaluation": TEXT, "calibration": [{"text": "One line."}]}, "8 tokens of it are left to learn from"),
    ],
)
def test_what_is_too_little_or_of_another_task_is_refused(files: Any, named: str, tmp_path: Path) -> None:
    """Each with what is missing."""
    with pytest.raises(CalibrationError, match=named):
        given_texts(order(tmp_path, **files), byte_tokenizer())
