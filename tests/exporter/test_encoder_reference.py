"""What the torch encoder gives for rows, each alone."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.encoder_reference import reference_outputs
from tests.exporter.encoder_models import info_for, random_encoder


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_token_vectors_are_pooled_as_the_manifest_says(pooling: str) -> None:
    """Mean, first and maximum over the row's own tokens, divided by their length where that is asked for."""
    import torch

    model = random_encoder("Bert", "feature-extraction")
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state[0].numpy()
    wanted = {"mean": states.sum(0) / 3, "cls": states[0], "max": states.max(0)}[pooling]
    plain, unit = (
        reference_outputs(
            model, "feature-extraction", info_for("feature-extraction", pooling=pooling, normalize=n), [[5, 6, 7]]
        )
        for n in (False, True)
    )
    assert np.allclose(plain[0]["embedding"], wanted)
    assert np.allclose(unit[0]["embedding"], wanted / np.linalg.norm(wanted), atol=1e-6)


def test_each_task_gives_its_outputs_without_the_batch_axis() -> None:
    """Labels of a text, labels of each token, beginnings and ends; token types change the outcome."""
    rows = [[5, 6, 7], [8, 9]]
    shapes = {
        "text-classification": [(3,), (3,)],
        "token-classification": [(3, 3), (2, 3)],
        "question-answering": [(3,), (2,)],
    }
    for task, wanted in shapes.items():
        model = random_encoder("Bert", task)
        outputs = reference_outputs(model, task, info_for(task), rows)
        for name in outputs[0]:
            assert [one[name].shape for one in outputs] == wanted
        second = reference_outputs(model, task, info_for(task), rows, [[0, 1, 1], [0, 1]])
        assert np.abs(second[0][name] - outputs[0][name]).max() > 1e-3
