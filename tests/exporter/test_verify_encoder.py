"""A candidate is judged by what its task is for, paired with the untouched reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edge_agent.manifest import Accuracy
from edge_agent.runtime.encoder_engine import best_answer
from edge_agent.runtime.encoding import Row
from exporter.encoder_reference import reference_outputs
from exporter.encoder_texts import Item
from exporter.verify_encoder import verify_encoder
from tests.exporter.encoder_models import LABELS, ExportedEncoder, exported_encoder

TEXT = "abcdefghijklmnopqrstuvwxyz"
DRAW = np.random.default_rng(0)
ROWS = [DRAW.integers(0, 300, length).tolist() for length in DRAW.integers(3, 20, 40)]


def item(ids: list[int], *answers: str) -> Item:
    """A text of one letter a token, without special tokens: a passage too, to whoever answers questions."""
    letters = tuple((place, place + 1) for place in range(len(ids)))
    row = Row(
        ids=tuple(ids), types=(0,) * len(ids), offsets=letters, texts=(1,) * len(ids), words=(None,) * len(ids),
        is_cut=False,
    )  # fmt: skip
    return Item(TEXT[: len(ids)], (row,), answers, question="?")


def judged(case: ExportedEncoder, path: Path | None = None, **settings: Any) -> Accuracy:
    right = settings.pop("right", None)
    items = [item(ids, *([] if right is None else [right[number]])) for number, ids in enumerate(ROWS)]
    given: dict[str, Any] = {"is_graded": right is not None, "budget_points": 1.0, "text": "random ids", **settings}
    reference = given.pop("reference", None) or reference_outputs(case.model, case.task, case.info, ROWS)
    return verify_encoder(reference, path or case.path, case.graph, items, task=case.task, encoder=case.info, **given)


def damaged(case: ExportedEncoder, folder: Path, amount: float) -> Path:
    """The graph with noise on its first product's weights."""
    model = ir.load(case.path)
    node = next(n for n in model.graph if n.op_type == "MatMul" and n.inputs[1].const_value is not None)
    weight = node.inputs[1].const_value.numpy()
    noise = np.random.default_rng(1).standard_normal(weight.shape).astype(np.float32)
    node.inputs[1].const_value = ir.tensor(weight + amount * noise, name=node.inputs[1].name)
    ir.save(model, folder / "damaged.onnx", external_data="damaged.data")
    return folder / "damaged.onnx"


@pytest.mark.parametrize(
    ("family", "task", "metric"),
    [
        ("Bert", "feature-extraction", "cosine"),
        ("Roberta", "text-classification", "agreement"),
        ("DistilBert", "token-classification", "agreement"),
        ("Electra", "question-answering", "agreement"),
    ],
)
def test_the_graph_itself_loses_nothing_and_a_damaged_one_does(
    family: str, task: str, metric: str, tmp_path: Path
) -> None:
    """100 of 100 without an interval for the faithful graph; the other loses, and its bound lies above its mean."""
    case = exported_encoder(family, task)
    same = judged(case)
    assert (same.metric, same.reference) == (metric, 100)
    assert same.value == pytest.approx(100, abs=1e-3)
    assert same.drop_bound_points < 1e-3
    assert same.count == (sum(map(len, ROWS)) if task == "token-classification" else len(ROWS))
    worse = judged(case, damaged(case, tmp_path, 0.3 if task == "question-answering" else 3.0))
    assert worse.value < 99
    assert worse.drop_points == pytest.approx(100 - worse.value)
    assert worse.drop_low_points < worse.drop_points < worse.drop_bound_points
    if task.endswith("classification"):
        assert worse.kl is not None
        assert same.kl is not None
        assert worse.kl > 1e-3 > same.kl >= 0
    assert (same.cosine is None) == (metric != "cosine")


def test_with_labels_both_are_held_against_what_is_right(tmp_path: Path) -> None:
    """The drop is the difference of two accuracies on the same texts; a gain counts as one."""
    case = exported_encoder("Roberta", "text-classification")
    reference = reference_outputs(case.model, case.task, case.info, ROWS)
    right = [LABELS[int(one["logits"].argmax())] for one in reference]
    path = damaged(case, tmp_path, 3.0)
    told = judged(case, path, right=right)
    assert (told.metric, told.reference, told.value) == ("accuracy", 100, told.agreement)
    wrong = [LABELS[(LABELS.index(label) + 1) % 3] for label in right]
    gained = judged(case, path, right=wrong)
    assert gained.reference == 0
    assert gained.drop_points == -gained.value < 0


def test_questions_are_right_where_the_answer_is_found(tmp_path: Path) -> None:
    """The served rule chooses the span of each passage; right is what holds a right answer, for both sides."""
    case = exported_encoder("Electra", "question-answering")
    reference = reference_outputs(case.model, case.task, case.info, ROWS)
    said = []
    for ids, one in zip(ROWS, reference, strict=True):
        asked = item(ids)
        said.append(best_answer(asked.text, asked.rows, [(one["start_logits"], one["end_logits"])]).text)
    same = judged(case, right=said)
    assert (same.metric, same.reference, same.value, same.agreement) == ("qa_accuracy", 100, 100, 100)
    worse = judged(case, damaged(case, tmp_path, 0.3), right=said)
    assert worse.agreement is not None
    assert worse.agreement <= worse.value < 100
    assert judged(case, right=["0"] * len(ROWS)).reference == 0


def test_windows_of_one_passage_give_one_answer() -> None:
    """A passage in several rows counts once, and its best window decides."""
    case = exported_encoder("Electra", "question-answering")
    whole, *rest = (item(ids) for ids in ROWS)
    both = Item(whole.text, (*whole.rows, *rest[0].rows), question="?")
    reference = reference_outputs(case.model, case.task, case.info, ROWS)
    told = verify_encoder(
        reference, case.path, case.graph, [both, *rest[1:]], task=case.task, encoder=case.info, is_graded=False,
        budget_points=1.0, text="random ids",
    )  # fmt: skip
    assert (told.count, told.value) == (len(ROWS) - 1, 100)


def test_numbers_that_are_none_pass_no_gate(tmp_path: Path) -> None:
    """NaN agrees with nothing, and has no cosine."""
    for family, task in (
        ("Bert", "feature-extraction"), ("Roberta", "text-classification"), ("Electra", "question-answering"),
    ):  # fmt: skip
        case = exported_encoder(family, task)
        (tmp_path / task).mkdir()
        told = judged(case, damaged(case, tmp_path / task, float("nan")))
        assert not told.drop_bound_points <= told.budget_points
        assert told.agreement in (None, 0.0)
