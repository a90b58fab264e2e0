"""Blocks, feed-forwards and heads are found in every family, and what is not understood is refused by name."""

from __future__ import annotations

import pytest

from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.structure import attentions_of, feed_forwards_of, linears_of, stack_of
from tests.exporter.conftest import random_model
from tests.exporter.families import FAMILIES

HEADS = {"GPT2": (4, 4, 16), "Qwen3": (4, 2, 32)}  # heads, key-value heads, features of a head
LINEARS = {"Phi3": 4, "GPT2": 4}  # in a block; seven where nothing is packed
STACKS = {"GPT2": "transformer.h", "Bert": "encoder.layer", "DistilBert": "transformer.layer"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_described(family: str) -> None:
    """Blocks, widths and heads are those that the model was made with."""
    model = FAMILIES[family]()
    encoder = "Bert" in family
    stack = stack_of(model)
    assert stack.name == STACKS.get(family, "bert.encoder.layer" if encoder else "model.layers")
    assert len(stack.blocks) == 2
    assert len(linears_of(model)) == 2 * LINEARS.get(family, 6 if encoder else 7)
    assert [one.width for one in feed_forwards_of(model)] == [96, 96]
    expected = HEADS.get(family, (4, 4 if encoder else 2, 16))
    assert [(one.heads, one.kv_heads, one.head_dim) for one in attentions_of(model)] == [expected] * 2


def test_names_lead_back_to_the_modules() -> None:
    """Each linear layer is found under its own name, embedding and head are not among them."""
    model = FAMILIES["Llama"]()
    layers = linears_of(model)
    assert all(model.get_submodule(name) is layer for name, layer in layers.items())
    assert not any("embed" in name or "lm_head" in name for name in layers)
    assert feed_forwards_of(model)[1].name == "model.layers.1.mlp"
    assert attentions_of(model)[0].name == "model.layers.0.self_attn"


def test_packed_gates_are_told_from_plain_rows() -> None:
    """Phi-3's channel c is row c and row width + c of its one matrix; a plain feed-forward has one row each."""
    import torch

    packed, plain = feed_forwards_of(FAMILIES["Phi3"]())[0], feed_forwards_of(FAMILIES["GPT2"]())[0]
    assert packed.packed
    assert packed.rows(torch.tensor([0, 5])).tolist() == [0, 5, 96, 101]
    assert matrix(packed.inner[0]).shape == (192, 64)
    assert not plain.packed
    assert plain.rows(torch.tensor([0, 5])).tolist() == [0, 5]


def test_experts_are_refused() -> None:
    """Experts that share one tensor are no feed-forward, and their weights are not passed over in silence."""
    model = random_model("Mixtral")
    with pytest.raises(ConversionError, match="MixtralDecoderLayer has no feed-forward of a known layout"):
        feed_forwards_of(model)
    with pytest.raises(ConversionError, match=r"mlp\.\S+ of shape .* no linear layer"):
        linears_of(model)


def test_norms_over_all_heads_are_refused() -> None:
    """A norm as wide as all heads together (OLMo 2) is named; Qwen3's, which all heads share, is not in the way."""
    with pytest.raises(ConversionError, match=r"Olmo2Attention has a weight q_norm.weight of shape \(64,\)"):
        attentions_of(random_model("Olmo2"))


def test_models_without_one_stack_of_blocks_are_refused() -> None:
    """A model whose blocks are not listed is refused by its class's name."""
    model = FAMILIES["Llama"]()
    model.config.num_hidden_layers = 5
    with pytest.raises(ConversionError, match="LlamaForCausalLM has no list of 5 blocks"):
        stack_of(model)


def test_shared_blocks_are_refused() -> None:
    """Two blocks with the same weights cannot be pruned one by one."""
    model = FAMILIES["Llama"]()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(ConversionError, match="share weights"):
        stack_of(model)
