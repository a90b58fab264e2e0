"""The steps of an export for decoders, on a tiny one."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter.errors import CalibrationError, OrderError
from exporter.generation import Generation
from exporter.order import Order
from exporter.source import open_source


@pytest.fixture(scope="module")
def source(tiny_checkpoint: Path) -> Any:
    return open_source(str(tiny_checkpoint))


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def order(tiny_checkpoint: Path, tmp_path: Path) -> Order:
    text = [{"text": f"{n} is followed by {n + 1}, and that by {n + 2}. " * 3} for n in range(60)]
    return Order(
        model=str(tiny_checkpoint), profile="desktop-cpu", output=tmp_path / "o",
        evaluation=lines(tmp_path / "eval.jsonl", text),
        calibration=lines(tmp_path / "calibration.jsonl", [*text[:5], {"text": "Something else, and more. " * 20}]),
    )  # fmt: skip


def generation(order: Order, source: Any, folder: Path) -> Generation:
    folder.mkdir()
    return Generation(order, source, folder, lambda what, part: None)


def test_what_calibrates_never_judges(order: Order, source: Any, tmp_path: Path) -> None:
    """Rows that are in both files only judge."""
    work = generation(order, source, tmp_path / "a")
    assert len(work.calibration.rows) == 1
    short = msgspec.structs.replace(
        order, calibration=lines(tmp_path / "one.jsonl", [{"text": "One line, and short."}])
    )
    with pytest.raises(CalibrationError, match="19 tokens of it are left to learn from, at least 256"):
        generation(short, source, tmp_path / "short")


def test_questions_are_graded_against_the_untouched_model(order: Order, source: Any, tmp_path: Path) -> None:
    """Right is what holds a right answer; the drop is paired with the fp32 graph's own answers."""
    questions = [
        {
            "question": f"What is {n}?",
            "answers": list(string.ascii_letters + string.digits + string.punctuation) if n % 2 else ["never said"],
        }
        for n in range(12)
    ]
    asked = msgspec.structs.replace(order, evaluation=lines(tmp_path / "qa.jsonl", questions))
    work = generation(asked, source, tmp_path / "b")
    base = work.convert("fp32", ())
    accuracy = work.verify(base)
    assert (accuracy.metric, accuracy.count, accuracy.drop_points) == ("qa_accuracy", 12, 0)
    assert accuracy.value == accuracy.reference <= 50
    assert accuracy.kl is not None
    assert accuracy.kl < 1e-4
    assert accuracy.text.startswith("qa.jsonl")
    hopeless = [{"question": f"What is {n}?", "answers": ["never said"]} for n in range(12)]
    asked = msgspec.structs.replace(order, evaluation=lines(tmp_path / "hopeless.jsonl", hopeless))
    with pytest.raises(CalibrationError, match="answers none of its 12 questions right"):
        generation(asked, source, tmp_path / "hopeless").convert("fp32", ())
    few = msgspec.structs.replace(order, evaluation=lines(tmp_path / "few.jsonl", questions[:9]))
    with pytest.raises(CalibrationError, match="has 9 rows, at least 10"):
        generation(few, source, tmp_path / "few")


def test_labels_are_refused_for_a_generator(order: Order, source: Any, tmp_path: Path) -> None:
    """A file of labels is for classifiers, and the message says what is needed."""
    labels = msgspec.structs.replace(order, evaluation=lines(tmp_path / "l.jsonl", [{"text": "a", "label": "b"}]))
    with pytest.raises(CalibrationError, match="holds labels: a text generator is judged on"):
        generation(labels, source, tmp_path / "c")


def test_codes_that_the_source_does_not_have_are_refused(order: Order, source: Any, tmp_path: Path) -> None:
    """--quantizer source for weights that were never quantized is no GPTQ under another name."""
    work = generation(msgspec.structs.replace(order, quantizer="source", precision="int4"), source, tmp_path / "s")
    base = work.convert("fp32", ())
    with pytest.raises(OrderError, match="do not lie on 4-bit grids in blocks of 32"):
        work.candidates(("int4", "int8", "fp32"), base)


def test_candidates_are_made_without_the_torch_model(order: Order, source: Any, tmp_path: Path) -> None:
    """After `release` every candidate is built, verified and sampled from graphs on disk."""
    work = generation(order, source, tmp_path / "d")
    base = work.convert("fp32", ())
    work.release()
    assert work.model is None
    built = {one.name: one for one in work.candidates(("int4", "int8", "fp16", "fp32"), base)}
    assert list(built) == ["int4-gptq", "mixed-gptq", "int8", "fp16", "fp32"]
    sizes = [one.path.with_name(f"{one.path.name}.data").stat().st_size for one in built.values()]
    assert sizes == sorted(sizes)
    half = built["fp16"]
    assert half.graph.cache is not None
    assert half.graph.cache.dtype == "float16"
    assert work.verify(half).drop_bound_points < 5
    assert len(work.samples(half)) == 8
