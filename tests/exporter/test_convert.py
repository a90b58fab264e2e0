"""The fp32 graph computes what PyTorch computes, in every way in which the agent will run it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.sampling import greedy
from exporter.convert import convert
from exporter.errors import ConversionError
from tests.exporter.conftest import Exported, exported, random_model

WINDOW = 8  # positions, in models that are run over 40
FAMILIES: dict[str, dict[str, Any]] = {
    # biases on queries, keys and values; one layer of two sees only a window
    "Qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    # norms before the rotation, heads wider than hidden; packed projections
    "Qwen3": {"head_dim": 32},
    # both soft caps, scaled and tied embeddings, four norms a layer, alternating windows
    "Gemma2": {
        "head_dim": 16, "sliding_window": WINDOW, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0,
    },
    # two rotary tables, norms of queries and keys
    "Gemma3": {
        "config": "Gemma3Text", "head_dim": 16, "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "Phi3": {"sliding_window": WINDOW},  # projections that the model packs itself
    "GPT2": {},  # learned positions, layers that are a Gemm, norms with biases, a tied head
    "StableLm": {"num_hidden_layers": 1},  # rotates part of a head, so the rotation stays outside the node
}  # fmt: skip
PROMPTS = (
    "What is the capital of France?", "Name three colours.", "What is two plus two?", "Why is the sky blue?",
    "Who wrote Hamlet?", "Write one sentence about the sea.", "Give me a word that rhymes with cat.",
    "What is the largest planet?", "Translate 'good morning' to Spanish.", "How many days are in a week?",
    "What is water made of?", "Name a mammal that flies.", "What colour is a banana?", "Who painted the Mona Lisa?",
    "What is the opposite of hot?", "Name the first month of the year.", "What do bees make?",
    "In which country is Rome?", "What is 7 times 8?", "Say hello.",
)  # fmt: skip


def reference_logits(model: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        logits: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


def random_ids(seed: int, length: int) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, 256, length).tolist()
    return ids


@pytest.fixture(scope="module", params=[*FAMILIES, "Llama", "Mistral"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A random model of each family, and its graph."""
    if request.param in ("Llama", "Mistral"):
        shared: Exported = request.getfixturevalue(f"tiny_{request.param.lower()}")
        return shared
    return exported(random_model(request.param, **FAMILIES[request.param]), tmp_path_factory.mktemp(request.param))


def test_prefill_and_steps_of_every_family_equal_pytorch(family: Exported) -> None:
    """Logits of a prefill, of a prefill over a past, and of one-token steps lie within 1e-3 of PyTorch's, well beyond
    the window of those families that have one.
    """
    model, path, graph = family
    ids = random_ids(1, 40)
    wanted = reference_logits(model, ids)
    decoder = Decoder(path, graph, context=64, threads=1)
    assert np.abs(decoder.logits(ids) - wanted).max() < 1e-3
    assert np.abs(decoder.prefill(ids[:20]) - wanted[19]).max() < 1e-3
    assert np.abs(decoder.extend(ids[20:25]) - wanted[24]).max() < 1e-3
    for position in range(25, 40):
        assert np.abs(decoder.step(ids[position]) - wanted[position]).max() < 1e-3


def test_every_linear_layer_of_every_family_can_be_quantized(family: Exported) -> None:
    """The quantizer leaves no product in floating point, the head included, and packed projections stay packed."""
    import onnx_ir as ir

    from exporter.quantize import matrices, rewrite
    from exporter.rounding import round_to_nearest

    quantized = ir.load(family.path)
    rewrite(quantized, {name: round_to_nearest(one.rows, 4) for name, one in matrices(quantized).items()})
    counts = Counter(node.op_type for node in quantized.graph)
    assert not counts.keys() & {"MatMul", "FusedMatMul", "Gemm"}
    gated = {"GPT2LMHeadModel": 1, "Phi3ForCausalLM": 1}.get(type(family.model).__name__, 2)
    norms_between = type(family.model).__name__ in ("Qwen3ForCausalLM", "Gemma3ForCausalLM", "StableLmForCausalLM")
    attention = 4 if norms_between else 2  # what stands between a projection and its attention keeps them apart
    assert counts["MatMulNBits"] == 1 + family.model.config.num_hidden_layers * (attention + gated + 1)


@pytest.mark.parametrize("which", ["tiny_llama", "tiny_mistral"])
def test_four_unequal_sequences_step_together(which: str, request: pytest.FixtureRequest) -> None:
    """One-token steps of four sequences of unequal lengths in one batch give each its own PyTorch logits, also where
    each row's window begins elsewhere.
    """
    import onnxruntime

    case: Exported = request.getfixturevalue(which)
    session = onnxruntime.InferenceSession(case.path, providers=["CPUExecutionProvider"])
    layout = case.graph.cache
    assert layout is not None
    rows = [random_ids(seed, length) for seed, length in enumerate((3, 17, 9, 30))]
    names = [f"{layer}.{half}" for layer in range(layout.layers) for half in ("key", "value")]
    caches = {name: np.zeros((4, layout.kv_heads, 40, layout.head_dim), np.float32) for name in names}

    def run(ids: np.ndarray, lengths: list[int], past: dict[str, np.ndarray]) -> list[np.ndarray]:
        feeds = {
            "input_ids": ids,
            "seqlens_k": np.array(lengths, np.int32) - 1,
            "logits_to_keep": np.array([ids.shape[1] - 1]),
        }
        feeds |= {f"past_key_values.{name}": value for name, value in past.items()}
        outputs: list[np.ndarray] = session.run(["logits", *(f"present.{name}" for name in names)], feeds)
        return outputs

    for index, row in enumerate(rows):
        empty = {name: np.zeros((1, *value.shape[1:]), np.float32) for name, value in caches.items()}
        for name, present in zip(names, run(np.array([row]), [len(row)], empty)[1:], strict=True):
            caches[name][index] = present[0]
    for step in range(4):
        fresh = random_ids(100 + step, 4)
        rows = [[*row, token] for row, token in zip(rows, fresh, strict=True)]
        outputs = run(np.array(fresh)[:, None], [len(row) for row in rows], caches)
        caches = dict(zip(names, outputs[1:], strict=True))
        for row, got in zip(rows, outputs[0], strict=True):
            assert np.abs(got[0] - reference_logits(case.model, row)[-1]).max() < 1e-3


def test_only_the_kept_positions_are_returned(tiny_llama: Exported) -> None:
    """`logits_to_keep` picks positions in the order asked for."""
    import onnxruntime

    session = onnxruntime.InferenceSession(tiny_llama.path, providers=["CPUExecutionProvider"])
    ids = random_ids(2, 12)
    feeds: dict[str, np.ndarray] = {
        "input_ids": np.array([ids]),
        "seqlens_k": np.array([11], np.int32),
        "logits_to_keep": np.array([11, 0, 5]),
    }
    for value in session.get_inputs()[3:]:
        feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    got = session.run(["logits"], feeds)[0]
    assert got.shape == (1, 3, 300)
    assert np.abs(got[0] - reference_logits(tiny_llama.model, ids)[[11, 0, 5]]).max() < 1e-3


def test_little_runs_between_the_projections(tiny_llama: Exported) -> None:
    """A Llama layer is nine nodes: norms fused with skips, rotation inside attention, projections packed."""
    import onnx_ir as ir

    counts = Counter(node.op_type for node in ir.load(tiny_llama.path).graph)
    assert counts["GroupQueryAttention"] == 2
    assert counts["SkipSimplifiedLayerNormalization"] == 4
    assert counts["MatMul"] == 2 * 5  # packed queries, keys and values; output; gate; up; down
    assert not counts.keys() & {"Transpose", "Reshape", "RotaryEmbedding", "Concat", "Pow"}


def test_a_window_costs_one_mask_for_all_layers(tiny_mistral: Exported) -> None:
    """Layers of one window share the nodes that compute it; where no layer has one, there are none."""
    import onnx_ir as ir

    counts = Counter(node.op_type for node in ir.load(tiny_mistral.path).graph)
    assert (counts["Where"], counts["GroupQueryAttention"]) == (1, 2)


def test_layers_of_unlike_caches_are_refused() -> None:
    """Gemma 4's full layers have wider heads than its sliding ones: the model is named, and why."""
    changes = {"head_dim": 16, "global_head_dim": 32, "layer_types": ["sliding_attention", "full_attention"]}
    model = random_model(
        "Gemma4", config="Gemma4Text", num_kv_shared_layers=0, vocab_size_per_layer_input=300, **changes
    )
    with pytest.raises(ConversionError, match="Gemma4ForCausalLM cannot be exported: its layers differ"):
        convert(model, 64)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_smollm2_equals_pytorch_on_twenty_prompts(smollm2_source: Any, smollm2_fp32: Exported) -> None:
    """SmolLM2's logits lie within 1e-3 of PyTorch's on 20 prompts and their answers, and its greedy text is the same.

    PyTorch's greedy text is read off one pass over prompt and answer: the first token that it would choose otherwise
    would show as the most likely one at its position.
    """
    model, path, graph = smollm2_fp32
    decoder = Decoder(path, graph, context=128)
    for prompt in PROMPTS:
        ids = smollm2_source.prompt_ids(prompt)
        answer = list(decoder.generate(ids, choose=greedy, max_tokens=12, stop_ids=smollm2_source.stop_ids))
        wanted = reference_logits(model, ids + answer)
        assert np.abs(decoder.logits(ids + answer) - wanted).max() < 1e-3
        assert wanted[len(ids) - 1 : -1].argmax(-1).tolist() == answer
    decoder.close()


def test_a_converted_model_is_let_go() -> None:
    """Nothing that tracing registers keeps the torch model, whose memory candidates need, alive."""
    import gc
    import weakref

    from exporter.convert import convert

    model = random_model("Llama", num_hidden_layers=1)
    alive = weakref.ref(model)
    convert(model, 64)
    del model
    gc.collect()
    assert alive() is None
