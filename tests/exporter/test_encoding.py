"""The steps of an export for encoders, on tiny ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter.encoding import Encoding
from exporter.errors import CalibrationError, ConversionError
from exporter.order import Order
from exporter.source import open_source
from tests.exporter.conftest import encoder_checkpoint

ORDER = Order(model="m", profile="desktop-cpu", output=Path("o"), max_accuracy_drop_points=100.0)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with three labels."""
    folder = tmp_path_factory.mktemp("encoders")
    return encoder_checkpoint(folder, "BertForSequenceClassification", num_labels=3)


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def encoding(order: Order, checkpoint: Path, folder: Path, task: str = "auto") -> Encoding:
    folder.mkdir()
    return Encoding(order, open_source(str(checkpoint), task=task), folder, lambda what, part: None)


def test_candidates_are_made_judged_and_sampled(classifier: Path, tmp_path: Path) -> None:
    """Dynamic int8 is among them; without labels the reference's own answers are right; samples come back."""
    work = encoding(ORDER, classifier, tmp_path / "a")
    base = work.convert("fp32", ())
    work.release()
    assert work.model is None
    built = {one.name: one for one in work.candidates(("int4", "int8", "fp32"), base)}
    assert list(built) == ["int4-gptq", "mixed-gptq", "int8-dynamic", "int8-weights", "fp32"]
    whole = work.verify(base)
    assert (whole.metric, whole.value, whole.drop_points) == ("agreement", 100, 0)
    dynamic = work.verify(built["int8-dynamic"])
    assert dynamic.value <= 100
    samples = work.samples(base)
    assert len(samples) == 8
    assert all(len(sample.output) == 3 for sample in samples)
    assert built["int4-gptq"].weights_bytes < base.weights_bytes


def test_labels_are_graded(classifier: Path, tmp_path: Path) -> None:
    """Accuracy is the share of right labels, paired with the reference's; a label that the model lacks is refused."""
    rows = [{"text": f"number {n}", "label": f"LABEL_{n % 3}"} for n in range(12)]
    order = msgspec.structs.replace(ORDER, evaluation=lines(tmp_path / "labels.jsonl", rows))
    work = encoding(order, classifier, tmp_path / "b")
    accuracy = work.verify(work.convert("fp32", ()))
    assert (accuracy.metric, accuracy.count) == ("accuracy", 12)
    assert accuracy.value == accuracy.reference
    strange = lines(tmp_path / "strange.jsonl", [{"text": "a", "label": "nothing"}])
    with pytest.raises(CalibrationError, match="label 'nothing', the model has LABEL_0, LABEL_1, LABEL_2"):
        encoding(msgspec.structs.replace(ORDER, evaluation=strange), classifier, tmp_path / "c")
    questions = lines(tmp_path / "questions.jsonl", [{"question": "a", "answers": ["b"]}])
    with pytest.raises(CalibrationError, match="holds questions: a model for text-classification is judged on"):
        encoding(msgspec.structs.replace(ORDER, evaluation=questions), classifier, tmp_path / "d")


def test_questions_are_asked_of_passages(tmp_path: Path) -> None:
    """Pairs judge, also where no questions are given; with right answers their share does."""
    checkpoint = encoder_checkpoint(tmp_path, "BertForQuestionAnswering")
    work = encoding(ORDER, checkpoint, tmp_path / "own")
    base = work.convert("fp32", ())
    told = work.verify(base)
    assert (told.metric, told.value) == ("agreement", 100)
    assert {kind for item in work._texts.items for row in item.rows for kind in row.types} == {0, 1}
    assert all(len(sample.output) > 3 for sample in work.samples(base))
    rows = [{"question": f"who is number {n}", "context": f"number {n} is {n + 1}", "answers": [f"{n + 1}"]}
            for n in range(12)]  # fmt: skip
    order = msgspec.structs.replace(ORDER, evaluation=lines(tmp_path / "passages.jsonl", rows))
    work = encoding(order, checkpoint, tmp_path / "given")
    told = work.verify(base)
    assert (told.metric, told.count) == ("qa_accuracy", 12)
    assert told.value == told.reference
    labels = lines(tmp_path / "labels.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(CalibrationError, match=r'holds labels: a model for question-answering .*"context"'):
        encoding(msgspec.structs.replace(ORDER, evaluation=labels), checkpoint, tmp_path / "labels")


def test_what_calibrates_never_judges(classifier: Path, tmp_path: Path) -> None:
    """Rows of both files only judge; if nothing is left to calibrate on, that is an error."""
    both = [{"text": f"one and the same {n}"} for n in range(10)]
    order = msgspec.structs.replace(
        ORDER,
        evaluation=lines(tmp_path / "e.jsonl", both),
        calibration=lines(tmp_path / "c.jsonl", [*both, *({"text": f"another {n}"} for n in range(10))]),
    )
    assert len(encoding(order, classifier, tmp_path / "f").calibration.rows) == 10
    few = msgspec.structs.replace(order, calibration=lines(tmp_path / "few.jsonl", [{"text": "alone"}]))
    with pytest.raises(CalibrationError, match="rows left to learn from: 1, needed: 10"):
        encoding(few, classifier, tmp_path / "few")
    with pytest.raises(CalibrationError, match="every row of it is in the evaluation text"):
        encoding(
            msgspec.structs.replace(order, calibration=lines(tmp_path / "s.jsonl", both)), classifier, tmp_path / "g"
        )


def test_an_engine_takes_static_int8_in_plain_operators(classifier: Path, tmp_path: Path) -> None:
    """Calibrated ranges around each product of the plain graph, scored in ONNX Runtime; int4 is refused by name."""
    import onnx

    work = encoding(ORDER, classifier, tmp_path / "h")
    half = work.convert_for_engine("plain", 64, ())
    assert (half.precision, half.graph.dialect) == ("fp16", "plain")
    int8 = work.quantized_for_engine(half, "int8")
    nodes = onnx.load(int8.path, load_external_data=False).graph.node
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert any(node.op_type == "QuantizeLinear" for node in nodes)
    assert work.verify_surrogate(half).drop_points < 10
    assert work.verify_surrogate(int8).count == work.verify_surrogate(half).count
    with pytest.raises(ConversionError, match="takes int8 or fp16, not int4"):
        work.quantized_for_engine(half, "int4")


def test_embeddings_are_judged_by_their_cosine(tmp_path: Path) -> None:
    """A plain encoder is for feature extraction; fp32 loses nothing."""
    checkpoint = encoder_checkpoint(tmp_path, "BertModel")
    work = encoding(ORDER, checkpoint, tmp_path / "work")
    accuracy = work.verify(work.convert("fp32", ()))
    assert accuracy.metric == "cosine"
    assert accuracy.drop_points == pytest.approx(0, abs=1e-3)
