"""The accuracy gate: its interval, its sums, and whom it lets pass."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from exporter.text import Text
from exporter.verify import Tally, accepted, verify
from tests.exporter.conftest import Exported

ROWS = tuple(tuple(np.random.default_rng(seed).integers(0, 256, 48).tolist()) for seed in range(6))


def test_the_graph_of_the_reference_loses_nothing(tiny_llama: Exported) -> None:
    """The fp32 graph agrees everywhere, has no divergence, and passes a budget of 0."""
    scored: list[int] = []
    result = verify(
        tiny_llama.model,
        {"fp32": (tiny_llama.path, tiny_llama.graph)},
        Text(ROWS, "random"),
        budget_points=0.0,
        on_progress=scored.append,
    )["fp32"]
    assert sum(scored) == result.count == 6 * 47
    assert result.agreement == 100
    assert result.drop_points == result.drop_bound_points == 0
    assert result.kl < 1e-6
    assert result.perplexity == pytest.approx(result.reference_perplexity, rel=1e-4)
    assert accepted(result)


def test_the_sums_are_those_of_the_definition(tiny_llama: Exported) -> None:
    """Accuracy and perplexity of the reference equal a plain computation over all tokens."""
    import torch

    right, nll = 0, 0.0
    for row in ROWS:
        with torch.inference_mode():
            logits = tiny_llama.model(input_ids=torch.tensor([row])).logits[0, :-1].log_softmax(-1)
        targets = torch.tensor(row[1:])
        right += int((logits.argmax(-1) == targets).sum())
        nll -= float(logits.gather(1, targets[:, None]).sum())
    result = verify(
        tiny_llama.model,
        {"fp32": (tiny_llama.path, tiny_llama.graph)},
        Text(ROWS, "random"),
        budget_points=1.0,
        on_progress=lambda _: None,
    )["fp32"]
    assert result.reference == pytest.approx(100 * right / (6 * 47))
    assert result.reference_perplexity == pytest.approx(math.exp(nll / (6 * 47)), rel=1e-5)


def test_the_gate_asks_the_bound_not_the_mean() -> None:
    """A drop inside the budget whose interval reaches beyond it is refused; so is one that is not a number."""
    tally = Tally(tokens=1000, reference_right=500, right=495, lost=20, won=15)
    inside = tally.accuracy(budget_points=2.0, text="t")
    assert inside.drop_points == pytest.approx(0.5)
    assert accepted(inside)
    assert not accepted(tally.accuracy(budget_points=1.0, text="t"))
    assert not accepted(msgspec.structs.replace(inside, drop_bound_points=math.nan))
