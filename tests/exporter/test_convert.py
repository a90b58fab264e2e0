"""The fp32 graph computes what PyTorch computes, in every way in which the agent will run it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.sampling import greedy
from tests.exporter.conftest import Exported, exported, random_model

ARCHITECTURES = [
    ("Llama", {"num_hidden_layers": 1, "tie_word_embeddings": False}),
    ("Qwen2", {"num_hidden_layers": 1}),  # biases on queries, keys and values
    ("Qwen3", {"num_hidden_layers": 1, "head_dim": 32}),  # norms before the rotation, heads wider than hidden
    (
        "Gemma2",
        {"num_hidden_layers": 1, "head_dim": 16, "sliding_window": 64},
    ),  # soft caps, scaled embeddings, four norms a layer
    ("StableLm", {"num_hidden_layers": 1}),  # rotates part of a head, so the rotation stays outside the node
]
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


@pytest.mark.parametrize(("architecture", "changes"), ARCHITECTURES)
def test_other_architectures_equal_pytorch(architecture: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """What Llama's sisters do differently is carried as well: prefill, prefill over a past, and steps."""
    assert_prefill_and_steps_equal(exported(random_model(architecture, **changes), tmp_path))


def test_prefill_and_steps_equal_pytorch(tiny_llama: Exported) -> None:
    """Logits of a prefill, of a prefill over a past, and of one-token steps lie within 1e-3 of PyTorch's."""
    assert_prefill_and_steps_equal(tiny_llama)


def assert_prefill_and_steps_equal(case: Exported) -> None:
    model, path, graph = case
    ids = random_ids(1, 40)
    wanted = reference_logits(model, ids)
    decoder = Decoder(path, graph, context=64, threads=1)
    assert np.abs(decoder.logits(ids) - wanted).max() < 1e-3
    assert np.abs(decoder.prefill(ids[:20]) - wanted[19]).max() < 1e-3
    assert np.abs(decoder.extend(ids[20:25]) - wanted[24]).max() < 1e-3
    for position in range(25, 40):
        assert np.abs(decoder.step(ids[position]) - wanted[position]).max() < 1e-3


def test_four_unequal_sequences_step_together(tiny_llama: Exported) -> None:
    """One-token steps of four sequences of unequal lengths in one batch give each its own PyTorch logits."""
    import onnxruntime

    session = onnxruntime.InferenceSession(tiny_llama.path, providers=["CPUExecutionProvider"])
    layout = tiny_llama.graph.cache
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
            assert np.abs(got[0] - reference_logits(tiny_llama.model, row)[-1]).max() < 1e-3


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
