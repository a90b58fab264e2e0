"""The attention node that a traced layer emits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporter.attention import AttentionPlan, LayerAttention, emitting
from tests.exporter.conftest import ROOT, Exported, random_model

OLDEST = Path(sys.prefix) / "oldest-onnxruntime"  # `make setup` puts it beside the other packages, not among them
STEPS = """
import sys
from pathlib import Path
import msgspec, numpy, onnxruntime
from edge_agent.manifest import Graph
from edge_agent.runtime.decoder import Decoder
assert onnxruntime.__version__ == "1.23.2"
ids = list(range(40))
decoder = Decoder(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Graph), context=64, threads=1)
whole = decoder.logits(ids)
decoder.prefill(ids[:20])
decoder.extend(ids[20:25])
steps = [decoder.step(token).copy() for token in ids[25:]]
numpy.savez(sys.argv[3], whole=whole, steps=numpy.stack(steps))
"""


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


def test_the_total_length_comes_from_an_operator_that_is_run_on_the_host(tiny_llama: Exported) -> None:
    """Attention on CUDA reads it there: what CUDA computes for it may not have come yet (ONNX Runtime 1.31)."""
    for node in nodes(tiny_llama):
        total = node.inputs[6]
        assert total is not None
        producer = total.producer()
        assert producer is not None
        assert producer.op_type == "BitwiseAnd"  # no provider but the CPU's has a kernel of it


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


def test_a_window_means_the_same_in_the_oldest_runtime(tiny_mistral: Exported, tmp_path: Path) -> None:
    """Prefill, prefill over a past and steps beyond the window equal PyTorch's under ONNX Runtime 1.23.2 as well."""
    import msgspec
    import torch

    graph = msgspec.json.encode(tiny_mistral.graph).decode()
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(tiny_mistral.path), graph, str(tmp_path / "given.npz")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{OLDEST}:{ROOT}"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    given = np.load(tmp_path / "given.npz")
    with torch.inference_mode():
        wanted = tiny_mistral.model(input_ids=torch.arange(40)[None]).logits[0].numpy()
    assert np.abs(given["whole"] - wanted).max() < 1e-3
    assert np.abs(given["steps"] - wanted[25:]).max() < 1e-3
