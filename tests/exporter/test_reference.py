"""What the untouched model said is kept exactly where it counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from exporter.reference import record
from exporter.text import Text
from tests.exporter.conftest import Exported

ROWS = tuple(tuple(np.random.default_rng(seed).integers(0, 256, 48).tolist()) for seed in range(3))


def test_windows_are_no_longer_than_the_model_takes(tiny_llama: Exported, tmp_path: Path) -> None:
    """Each token but the first is scored once, in windows of the model's own context."""
    scored: list[int] = []
    reference = record(tiny_llama.model, Text(ROWS, "random"), tmp_path / "reference", scored.append, context=20)
    assert sum(scored) == 3 * 47
    assert max(len(said.ids) for said in reference.said()) == 20


def test_what_was_said_comes_back(tiny_llama: Exported, tmp_path: Path) -> None:
    """Each window's ids and targets, the most likely token and the target's likelihood; log-probabilities nearly."""
    import torch

    scored: list[int] = []
    reference = record(tiny_llama.model, Text(ROWS, "random"), tmp_path / "reference", scored.append, context=64)
    assert sum(scored) == reference.text.scored_tokens == 3 * 47
    for row, said in zip(ROWS, reference.said(), strict=True):
        with torch.inference_mode():
            wanted = tiny_llama.model(input_ids=torch.tensor([row])).logits[0, :-1].log_softmax(-1)
        assert said.ids == list(row)
        assert said.targets.tolist() == list(row[1:])
        assert said.top.tolist() == wanted.argmax(-1).tolist()
        assert torch.allclose(said.likelihood.float(), wanted.gather(1, said.targets[:, None])[:, 0])
        assert (said.log_probabilities - wanted).abs().max() < 0.02
