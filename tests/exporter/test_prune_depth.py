"""The blocks that go are those that change their input least."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.prune_depth import blocks, influences
from exporter.structure import linears_of, stack_of
from tests.exporter.conftest import random_model
from tests.exporter.families import ignore, outputs, random_encoder, random_text


def with_idle_block(index: int) -> Any:
    """A Llama of four blocks of which one adds nothing."""
    model = random_model("Llama", num_hidden_layers=4)
    for name, layer in linears_of(model).items():
        if f"layers.{index}." in name and ("down_proj" in name or "o_proj" in name):
            matrix(layer)[:] = 0
    return model


@pytest.mark.parametrize("index", [0, 2])
def test_an_idle_block_goes_first(index: int) -> None:
    """The block that adds nothing has no influence; without it the model gives the same."""
    import torch

    model = with_idle_block(index)
    wanted = outputs(model)
    done = blocks(model, 0.25, random_text(), ignore)
    assert done["blocks_removed"] == [index]
    assert done["influence"][index] == pytest.approx(0, abs=1e-5)
    assert (done["blocks_before"], done["blocks_after"]) == (4, 3)
    assert torch.allclose(outputs(model), wanted, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: random_model("Llama"), random_encoder])
def test_influence_is_one_less_the_cosine(make: Any) -> None:
    """Influences equal those of the hidden states that transformers itself gives out."""
    import torch

    model, text = make(), random_text()
    entered = []
    for block in stack_of(model).blocks:
        block.register_forward_pre_hook(lambda module, args, kwargs: entered.append(args[0]), with_kwargs=True)
    sums, tokens = 0.0, 0
    for row in text.rows:
        entered.clear()
        with torch.no_grad():
            model(input_ids=torch.tensor([row]))
        sums += float(torch.nn.functional.cosine_similarity(entered[0], entered[1], dim=-1).sum())
        tokens += len(row)
    assert influences(model, text, ignore)[0] == pytest.approx(1 - sums / tokens, abs=1e-5)


def test_one_block_always_stays() -> None:
    """Amounts that round to none or all of the blocks are refused with the arithmetic."""
    model = random_model("Llama")
    for amount, outcome in ((0.2, "is 0.4, which rounds to none"), (0.9, "is 1.8, which rounds to all")):
        with pytest.raises(ConversionError, match=f"{amount} of 2 blocks {outcome}"):
            blocks(model, amount, random_text(), ignore)
    assert len(stack_of(model).blocks) == 2
