"""The attention node that a traced layer emits."""

from __future__ import annotations

import onnx_ir as ir

from exporter.attention import AttentionPlan, LayerAttention, emitting
from tests.exporter.conftest import Exported, random_model


def nodes(case: Exported) -> list[ir.Node]:
    return [node for node in ir.load(case.path).graph if node.op_type == "GroupQueryAttention"]


def test_the_node_says_what_the_layer_asked_for(tiny_llama: Exported) -> None:
    """Heads, scale and rotation are attributes; a soft cap that nobody asked for is none."""
    for node in nodes(tiny_llama):
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        assert attributes == {
            "num_heads": 4, "kv_num_heads": 2, "scale": 0.25, "do_rotary": 1, "rotary_interleaved": 0,
        }  # fmt: skip


def test_layers_share_lengths_and_tables_but_not_caches(tiny_llama: Exported) -> None:
    """Total length and rotary tables are computed once; each layer has its own past and present."""
    first, second = nodes(tiny_llama)
    names = [[value.name if value else None for value in node.inputs] for node in (first, second)]
    assert names[0][5:] == names[1][5:]
    assert names[0][3:5] == ["past_key_values.0.key", "past_key_values.0.value"]
    assert [output.name for output in second.outputs][1:] == ["present.1.key", "present.1.value"]


def test_the_model_is_given_back_as_it_was() -> None:
    """Leaving `emitting`, also by an error, restores attention and rotation."""
    from transformers.models.llama import modeling_llama

    model = random_model("Llama")
    before = (model.config._attn_implementation, modeling_llama.apply_rotary_pos_emb)
    layer = LayerAttention(heads=4, kv_heads=2, head_dim=16, scale=0.25, softcap=0.0, rotary=0)
    try:
        with emitting(model, AttentionPlan(layers=(layer, layer), tables=((None, None),))):
            assert modeling_llama.apply_rotary_pos_emb is not before[1]
            raise RuntimeError
    except RuntimeError:
        pass
    assert (model.config._attn_implementation, modeling_llama.apply_rotary_pos_emb) == before
