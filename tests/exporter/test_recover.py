"""A damaged model comes nearer to its reference, the same way each time, and never ends worse than it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from exporter import recover as recovering
from exporter.errors import CalibrationError, ConversionError
from exporter.prune import parse_prune, prune, share_of_zeros
from exporter.recover import distance, learned_before, recover
from exporter.text import Text
from tests.exporter.families import FAMILIES, ignore, outputs, random_text

STEPS = 20


def damaged(family: str, how: str) -> tuple[Any, Any]:
    """(pruned, untouched)."""
    reference = FAMILIES[family]()
    student = copy.deepcopy(reference)
    prune(student, parse_prune(how), random_text(), on_progress=ignore)
    return student, reference


@pytest.mark.parametrize(
    ("family", "how"),
    [("Llama", "wanda:0.5"), ("GPT2", "heads:0.25"), ("Bert", "ffn:0.33"), ("BertForSequenceClassification", "2:4")],
)
def test_recovery_comes_nearer_on_text_it_has_not_seen(family: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of decoders, encoders and classifiers alike, the distance on other text falls."""
    import torch

    monkeypatch.setattr(recovering, "_LEARNING_RATE", 1e-3)  # for twenty steps
    student, reference = damaged(family, how)
    other = torch.tensor([random_text(seed=9).rows[0]])
    before = float(distance(student, reference, other).detach())
    told: list[float] = []
    done = recover(student, reference, random_text(rows=32), steps=STEPS, seed=0, on_progress=told.append).parameters
    assert float(distance(student, reference, other).detach()) < 0.95 * before
    assert done["kept"]
    assert done["loss_after"] < done["loss_before"]
    assert told[-1] == 1.0
    assert done["tokens"] > STEPS * 4 * 30


def test_the_same_seed_gives_the_same_weights() -> None:
    """Twice the same recovery ends the same, another seed ends otherwise."""
    import torch

    ends = []
    for seed in (1, 1, 2):
        student, reference = damaged("Llama", "ffn:0.33")
        recover(student, reference, random_text(rows=12), steps=5, seed=seed, on_progress=ignore)
        ends.append(outputs(student))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_passes_before_do_not_learn_from_what_judges() -> None:
    """What recovery holds back is no part of it, and everything else is."""
    reference = FAMILIES["Llama"]()
    text = random_text(rows=16)
    rest = learned_before(reference, text)
    training, held_back = recovering._divided(reference, text)
    assert list(rest.rows) == training
    assert held_back
    assert not set(rest.rows) & set(held_back)
    assert sum(map(len, (*rest.rows, *held_back))) == sum(map(len, text.rows))


def test_zeros_stay_zero() -> None:
    """Weights that pruning made zero are zero after recovery, the others have moved; embedding and head have not."""
    import torch

    student, reference = damaged("Llama", "wanda:0.5")
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    recover(student, reference, random_text(rows=12), steps=5, seed=0, on_progress=ignore)
    assert share_of_zeros(student) == 0.5
    moved = [name for name, weight in student.state_dict().items() if not torch.equal(weight, before[name])]
    assert "model.layers.0.mlp.up_proj.weight" in moved
    assert not {"model.embed_tokens.weight", "lm_head.weight"} & set(moved)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in student.parameters())


def test_a_worse_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps far too large are undone, and the record says so."""
    import torch

    monkeypatch.setattr(recovering, "_LEARNING_RATE", 1.0)
    student, reference = damaged("Llama", "ffn:0.33")
    before = outputs(student)
    done = recover(student, reference, random_text(rows=12), steps=3, seed=0, on_progress=ignore).parameters
    assert not done["kept"]
    assert "weights from before" in done["note"]
    assert torch.equal(outputs(student), before)


def test_a_loss_that_is_not_finite_names_its_step() -> None:
    """A reference that gives NaN for some rows stops recovery with the step."""
    student, reference = damaged("Llama", "ffn:0.33")
    rows = random_text(rows=12).rows
    reference.get_input_embeddings().weight.data[299] = float("nan")
    text = Text((*((299, *row[1:]) for row in rows[:10]), *rows[10:]), "t")
    with pytest.raises(ConversionError, match="loss of recovery is nan at step 1"):
        recover(student, reference, text, steps=3, seed=0, on_progress=ignore)


def test_too_little_is_refused() -> None:
    """One row cannot be both trained on and held back; no step is no recovery."""
    student, reference = damaged("Llama", "ffn:0.33")
    with pytest.raises(CalibrationError, match="holds rows back"):
        recover(student, reference, Text((tuple(range(20)),), "t"), steps=1, seed=0, on_progress=ignore)
    with pytest.raises(ConversionError, match="at least 1"):
        recover(student, reference, random_text(), steps=0, seed=0, on_progress=ignore)
