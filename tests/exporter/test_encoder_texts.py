"""What calibrates and what judges an encoder, in rows of its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent.manifest import EncoderInfo
from edge_agent.runtime.encoding import TextEncoder
from exporter.encoder_texts import EncoderTexts, encoder_texts
from exporter.errors import CalibrationError
from tests.edge_agent.encoder_bundles import build_word_tokenizer

QUESTION_ANSWERING = "question-answering"
PASSAGES = [{"question": "who met", "context": f"ada met good {n}", "answers": ["ada"]} for n in range(10)]


def read(folder: Path, task: str, *, max_tokens: int = 16, **rows: list[dict[str, Any]]) -> EncoderTexts:
    """`rows` of files for `calibration` and `evaluation`, with a tokenizer of one token a word."""
    build_word_tokenizer(folder / "tokenizer.json")
    given: dict[str, Path | None] = {"calibration": None, "evaluation": None}
    for name, content in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        given[name] = path
    labels = ("pos", "neg") if task == "text-classification" else ()
    cutter = TextEncoder(folder / "tokenizer.json", max_tokens)
    return encoder_texts(cutter, task, EncoderInfo(max_tokens=max_tokens, labels=labels), **given)


def test_the_sentences_of_this_package_are_read_where_no_file_is_given(tmp_path: Path) -> None:
    """One row a sentence, cut to what the model takes; nothing is graded, and no sentence is on both sides."""
    texts = read(tmp_path, "feature-extraction")
    assert not texts.is_graded
    assert all(len(item.rows) == 1 and len(item.rows[0].ids) <= 16 for item in texts.items)
    assert len(texts.calibration) > 100


def test_who_answers_questions_reads_pairs(tmp_path: Path) -> None:
    """Also where no questions are given, and to learn from; types tell the question from the passage."""
    texts = read(tmp_path, QUESTION_ANSWERING, max_tokens=48)
    assert all(item.question is not None for item in texts.items)
    assert {kind for row in (texts.items[0].rows[0], texts.calibration[0]) for kind in row.types} == {0, 1}
    graded = read(tmp_path, QUESTION_ANSWERING, evaluation=PASSAGES)
    assert graded.is_graded
    assert (graded.items[0].question, graded.items[0].answers) == ("who met", ("ada",))


def test_a_long_passage_has_several_windows(tmp_path: Path) -> None:
    """They are one item."""
    long = [{**row, "context": "ada met lovelace in london " * 10} for row in PASSAGES]
    assert len(read(tmp_path, QUESTION_ANSWERING, evaluation=long).items[0].rows) > 1


@pytest.mark.parametrize(
    ("task", "files", "named"),
    [
        ("feature-extraction", {"evaluation": PASSAGES}, 'holds passages: .* judged on rows with {"text"}'),
        (
            "text-classification",
            {"evaluation": [{"text": "a", "label": "odd"}]},
            "has the label 'odd', the model has pos",
        ),
        (QUESTION_ANSWERING, {"evaluation": PASSAGES[:9]}, "has 9 rows, at least 10"),
        (
            QUESTION_ANSWERING,
            {"evaluation": [{**PASSAGES[0], "question": "met " * 20}] * 10},
            "leaves 0 of 16 tokens to the text",
        ),
        ("feature-extraction", {"calibration": [{"text": "alone"}]}, "rows left to learn from: 1, needed: 10"),
    ],
)
def test_what_cannot_be_used_is_refused(task: str, files: Any, named: str, tmp_path: Path) -> None:
    """Rows of another task, too few of them, or a question longer than the model."""
    with pytest.raises(CalibrationError, match=named):
        read(tmp_path, task, **files)
