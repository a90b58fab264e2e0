"""The accuracy gate: its interval, its sums, and whom it lets pass."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from exporter.judge import accepted
from exporter.reference import Reference, record
from exporter.text import Text
from exporter.verify import Tally, score, verify
from tests.exporter.conftest import Exported, random_model

ROWS = tuple(tuple(np.random.default_rng(seed).integers(0, 256, 48).tolist()) for seed in range(6))


@pytest.fixture(scope="module")
def reference(tiny_llama: Exported, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("verify") / "reference"
    return record(tiny_llama.model, Text(ROWS, "random"), folder, lambda _: None, context=64)


def test_the_graph_of_the_reference_loses_nothing(tiny_llama: Exported, reference: Reference) -> None:
    """The fp32 graph agrees everywhere, has no divergence, and passes a budget of 0."""
    scored: list[int] = []
    result = verify(reference, tiny_llama.path, tiny_llama.graph, budget_points=0.0, on_progress=scored.append)
    assert sum(scored) == result.count == 6 * 47
    assert result.agreement == 100
    assert result.drop_points == result.drop_bound_points == 0
    assert result.kl is not None
    assert result.kl < 1e-4
    assert result.perplexity == pytest.approx(result.reference_perplexity, rel=1e-4)
    assert accepted(result)


def test_the_sums_are_those_of_the_definition(tiny_llama: Exported, reference: Reference) -> None:
    """Accuracy, perplexity and divergence equal a plain computation over all tokens, for a model that is another."""
    import torch

    other = random_model("Llama", tie_word_embeddings=True, rms_norm_eps=0.3)
    right, reference_right, nll, kl, agreed = 0, 0, 0.0, 0.0, 0

    def said(model: Any, row: tuple[int, ...]) -> Any:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([row])).logits[0]

    for row in ROWS:
        ours, theirs = (said(model, row)[:-1].log_softmax(-1) for model in (other, tiny_llama.model))
        targets = torch.tensor(row[1:])
        hit, reference_hit = ours.argmax(-1) == targets, theirs.argmax(-1) == targets
        right, reference_right = right + int(hit.sum()), reference_right + int(reference_hit.sum())
        agreed += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        nll -= float(ours.gather(1, targets[:, None]).sum())
        kl += float((theirs.exp() * (theirs - ours)).sum())
    result = score(lambda ids: said(other, tuple(ids)).numpy(), reference, budget_points=1.0)
    count = 6 * 47
    assert result.value == result.next_token_accuracy == pytest.approx(100 * right / count)
    assert result.reference == pytest.approx(100 * reference_right / count)
    assert result.drop_points == pytest.approx(100 * (reference_right - right) / count)
    assert result.agreement == pytest.approx(100 * agreed / count)
    assert result.perplexity == pytest.approx(math.exp(nll / count), rel=1e-5)
    assert result.kl == pytest.approx(kl / count, rel=1e-2)
    assert result.kl > 0.01


def test_the_gate_asks_the_bound_not_the_mean() -> None:
    """A drop inside the budget whose interval reaches beyond it is refused; so is one that is not a number."""
    tally = Tally(tokens=1000, reference_right=500, right=495, lost=20, won=15)
    inside = tally.accuracy(budget_points=2.0, text="t")
    assert inside.drop_points == pytest.approx(0.5)
    assert accepted(inside)
    assert not accepted(tally.accuracy(budget_points=1.0, text="t"))
    assert not accepted(msgspec.structs.replace(inside, drop_bound_points=math.nan))


def test_a_gain_beyond_chance_is_an_anomaly() -> None:
    """A candidate that is better than its reference by more than the interval is flagged; a small gain is not."""
    assert (
        Tally(tokens=4000, reference_right=1000, right=1100, lost=10, won=110)
        .accuracy(budget_points=1, text="t")
        .is_anomaly
    )
    assert (
        not Tally(tokens=4000, reference_right=1000, right=1002, lost=10, won=12)
        .accuracy(budget_points=1, text="t")
        .is_anomaly
    )
