"""What the probe finds out about attention layers, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import ConversionError
from exporter.probe import probe
from tests.exporter.conftest import random_model


def test_a_llama_layer_gives_its_heads_scale_and_rotation() -> None:
    """Heads, head size and scale are the configuration's, and the rotation can move into the node."""
    plan = probe(random_model("Llama"), 64)
    assert len(plan.layers) == 2
    layer = plan.layers[1]
    assert (layer.heads, layer.kv_heads, layer.head_dim, layer.scale) == (4, 2, 16, 0.25)
    assert layer.rotary == 0
    assert plan.tables[0][0].shape == (64, 8)


def test_rotary_tables_are_the_models_own() -> None:
    """The tables hold what the model's rotary module gives for each position."""
    import torch

    model = random_model("Llama", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    ((cos, sin),) = probe(model, 64).tables
    wanted = model.model.rotary_emb(torch.zeros(1), torch.tensor([[17]]))
    assert torch.equal(cos[17], wanted[0][0, 0, :8])
    assert torch.equal(sin[17], wanted[1][0, 0, :8])


def test_two_kinds_of_rotation_give_two_tables() -> None:
    """Gemma 3 rotates its layers by two tables; each layer points to its own."""
    model = random_model(
        "Gemma3",
        config="Gemma3Text",
        head_dim=16,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
    )
    plan = probe(model, 64)
    assert [layer.rotary for layer in plan.layers] == [0, 1]


def test_a_partial_rotation_stays_outside() -> None:
    """A layer that rotates only a part of each head keeps that in the graph."""
    plan = probe(random_model("StableLm"), 64)
    assert plan.tables == ()
    assert {layer.rotary for layer in plan.layers} == {None}


def test_the_soft_cap_is_carried() -> None:
    """Gemma 2's soft cap and own scale reach the node."""
    model = random_model(
        "Gemma2", head_dim=16, sliding_window=64, attn_logit_softcapping=30.0, query_pre_attn_scalar=64
    )
    layer = probe(model, 64).layers[0]
    assert layer.softcap == 30.0
    assert layer.scale == 64**-0.5


def test_a_window_shorter_than_the_context_is_kept() -> None:
    """A layer's window is carried where it closes something, and only there."""
    changes = {"head_dim": 16, "sliding_window": 8}
    assert [layer.window for layer in probe(random_model("Gemma2", **changes), 64).layers] == [8, None]
    assert [layer.window for layer in probe(random_model("Gemma2", **changes), 8).layers] == [None, None]


def test_heads_that_the_node_cannot_rotate_are_rotated_outside() -> None:
    """ONNX Runtime rotates heads of a multiple of 16 only, and takes others of a multiple of 8."""
    plan = probe(random_model("Llama", head_dim=24), 64)
    assert {layer.rotary for layer in plan.layers} == {None}


@pytest.mark.parametrize(
    ("architecture", "changes", "named"),
    [
        ("Llama", {"is_causal": False}, "mask|directions"),
        ("Llama", {"head_dim": 12}, "heads of 12"),
        ("GPTJ", {"rotary_dim": 8}, "does not attend through the attention interface"),
        ("Rwkv", {"attention_hidden_size": 64}, "recurrent state"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(architecture: str, changes: dict[str, Any], named: str) -> None:
    """A model whose attention the node cannot express raises ConversionError with its name and the reason."""
    with pytest.raises(ConversionError, match=f"{architecture}ForCausalLM cannot be exported: .*({named})"):
        probe(random_model(architecture, **changes), 64)


def test_a_layer_that_keeps_nothing_is_refused() -> None:
    """A layer without keys and values of its own would be lost silently, so the counts must agree."""
    model = random_model("Llama")
    model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(ConversionError, match=r"LlamaForCausalLM .* of its 2 layers 1 attend and 1 keep"):
        probe(model, 64)


def test_the_model_is_left_as_it_was() -> None:
    """After the probe the model computes with its own attention again."""
    import torch

    model = random_model("Llama")
    before = model(input_ids=torch.tensor([[1, 2, 3]])).logits
    probe(model, 64)
    assert torch.equal(model(input_ids=torch.tensor([[1, 2, 3]])).logits, before)
