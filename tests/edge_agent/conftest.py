"""A small but real bundle: a byte-level tokenizer trained on the spot and a two-layer decoder with random weights.

The graph keeps the whole contract of a decoder (GroupQueryAttention, caches, logits_to_keep), so caches, overflow
and sampling are tested on what ONNX Runtime really does, without a model to download.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.bundle import write_bundle
from edge_agent.manifest import (
    SCHEMA,
    CacheLayout,
    GenerationDefaults,
    Graph,
    Manifest,
    Measured,
    ModelInfo,
    Pass,
    TokenizerInfo,
)

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, CONTEXT = 2, 4, 2, 16, 24, 1024
VOCABULARY = 384  # more than the tokenizer has: models pad theirs, too

CORPUS = (
    "What is the capital of France? The capital of France is Paris. ÀÉÎÕÜ naïve café, 東京, привет, 🎉🚀 "
    "def answer(question): return 42\n\n    indented  and   spaced\ttext, 1234567890 times."
)
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_graph(
    path: Path, *, seed: int = 0, external: str | None = None, poison: bool = False, vocabulary: int = VOCABULARY
) -> Graph:
    """Write a tiny decoder to `path`; `external` moves its embedding to that location, `poison` makes NaN."""
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(seed)
    weights: list[Any] = []
    nodes: list[Any] = []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def matrix(name: str, rows: int, columns: int) -> str:
        return constant(name, (draw.standard_normal((rows, columns)) * 0.5).astype(np.float32))

    def node(kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))

    def value(name: str, kind: int, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [
        value("input_ids", TensorProto.INT64, ["batch", "sequence"]),
        value("seqlens_k", TensorProto.INT32, ["batch"]),
        value("logits_to_keep", TensorProto.INT64, ["kept"]),
    ]
    outputs = [value("logits", TensorProto.FLOAT, ["batch", "kept", vocabulary])]
    angles = np.arange(CONTEXT)[:, None] / (100.0 ** (np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2)))
    constant("cos", np.cos(angles).astype(np.float32))
    constant("sin", np.sin(angles).astype(np.float32))
    embedding = matrix("embedding", vocabulary, HIDDEN)
    node("Gather", [embedding, "input_ids"], ["hidden0"])
    node("ReduceMax", ["seqlens_k"], ["longest"], keepdims=0)
    node("Add", ["longest", constant("one", np.array(1, np.int32))], ["total"])
    for layer in range(LAYERS):
        hidden = f"hidden{layer}"
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            node("MatMul", [hidden, matrix(f"w{part}{layer}", HIDDEN, heads * HEAD_DIM)], [f"{part}{layer}"])
        past = [f"past_key_values.{layer}.{half}" for half in ("key", "value")]
        present = [f"present.{layer}.{half}" for half in ("key", "value")]
        node(
            "GroupQueryAttention",
            [f"q{layer}", f"k{layer}", f"v{layer}", *past, "seqlens_k", "total", "cos", "sin"],
            [f"attended{layer}", *present],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            do_rotary=1,
        )
        node("MatMul", [f"attended{layer}", matrix(f"wo{layer}", HEADS * HEAD_DIM, HIDDEN)], [f"out{layer}"])
        node("Add", [hidden, f"out{layer}"], [f"sum{layer}"])
        node("Tanh", [f"sum{layer}"], [f"hidden{layer + 1}"])
        inputs += [value(name, TensorProto.FLOAT, ["batch", KV_HEADS, "past", HEAD_DIM]) for name in past]
        outputs += [value(name, TensorProto.FLOAT, ["batch", KV_HEADS, "present", HEAD_DIM]) for name in present]
    node("Gather", [f"hidden{LAYERS}", "logits_to_keep"], ["kept_hidden"], axis=1)
    head = draw.standard_normal((HIDDEN, vocabulary)).astype(np.float32) * (np.nan if poison else 1)
    node("MatMul", ["kept_hidden", constant("head", head.astype(np.float32))], ["logits"])

    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    if external is not None:
        table = next(weight for weight in graph.initializer if weight.name == "embedding")
        payload = table.raw_data
        table.ClearField("raw_data")
        table.data_location = TensorProto.EXTERNAL
        for key, said in (("location", external), ("offset", "0"), ("length", str(len(payload)))):
            entry = table.external_data.add()
            entry.key, entry.value = key, said
        (path.parent / external).write_bytes(payload)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return Graph(
        path="model/decoder.onnx",
        dialect="ort",
        inputs=tuple(one.name for one in inputs),
        outputs=tuple(one.name for one in outputs),
        cache=CacheLayout(layers=LAYERS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype="float32"),
    )


def build_tokenizer(path: Path) -> None:
    """Train a byte-level BPE tokenizer on CORPUS and write it to `path`."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([CORPUS] * 4, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.save(str(path))


def draft_manifest(*graphs: Graph) -> Manifest:
    """A manifest of which `write_bundle` fills in the rest."""
    return Manifest(
        schema=SCHEMA,
        bundle_id="",
        version=1,
        model=ModelInfo(
            name="tiny",
            source="random weights",
            licence="Apache-2.0",
            architecture="TinyForCausalLM",
            parameters=12_345,
            context_length=CONTEXT,
        ),
        task="text-generation",
        profile="desktop-cpu",
        passes=(Pass(name="quantize", parameters={"block": 32, "bits": 4}),),
        precision={"linear": "fp32", "embedding": "fp32"},
        graphs=graphs,
        tokenizer=TokenizerInfo(
            path="tokenizer/tokenizer.json",
            chat_template="tokenizer/chat_template.jinja",
            vocabulary=VOCABULARY,
            bos_token="<s>",
            eos_token="<|im_end|>",
        ),
        generation=GenerationDefaults(stop_ids=(2,), max_tokens=32),
        samples=(),
        accuracy=None,
        measured=Measured(
            where="a test",
            runtime="onnxruntime 1.0 CPUExecutionProvider",
            threads=1,
            fixed_ms=1.0,
            prefill_ms_per_token=0.5,
            decode_ms_per_token=2.0,
            load_ms=10.0,
            peak_rss_bytes=1_000_000,
        ),
        engines=(),
        files=(),
    )


@pytest.fixture(scope="session")
def make_graph() -> Callable[..., Graph]:
    """`build_graph`, for tests that need a graph of their own."""
    return build_graph


@pytest.fixture(scope="session")
def tiny_graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Graph]:
    """A tiny decoder graph and its description; not to be changed."""
    path = tmp_path_factory.mktemp("graph") / "decoder.onnx"
    return path, build_graph(path)


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer.json with the special tokens `<s>` 0, `<|im_start|>` 1, `<|im_end|>` 2."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_graph: tuple[Path, Graph], tiny_tokenizer: Path) -> Path:
    """A whole bundle; not to be changed."""
    return write_tiny(tmp_path_factory.mktemp("bundles"), tiny_graph, tiny_tokenizer)


@pytest.fixture
def make_bundle(tmp_path: Path, tiny_graph: tuple[Path, Graph], tiny_tokenizer: Path) -> Callable[..., Path]:
    """Write a bundle that differs from `tiny_bundle` in fields of the manifest, or in what `change` does."""

    def make(change: Callable[[Path], Graph | None] = lambda staging: None, **fields: Any) -> Path:
        return write_tiny(tmp_path, tiny_graph, tiny_tokenizer, change, **fields)

    return make


def write_tiny(
    folder: Path,
    tiny_graph: tuple[Path, Graph],
    tiny_tokenizer: Path,
    change: Callable[[Path], Graph | None] = lambda staging: None,
    **fields: Any,
) -> Path:
    staging = folder / "staging"
    for name in ("model", "tokenizer"):
        (staging / name).mkdir(parents=True)
    shutil.copy(tiny_graph[0], staging / "model" / "decoder.onnx")
    shutil.copy(tiny_tokenizer, staging / "tokenizer" / "tokenizer.json")
    (staging / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE)
    graph = change(staging) or tiny_graph[1]
    output = folder / "bundle"
    write_bundle(staging, output, msgspec.structs.replace(draft_manifest(graph), **fields))
    return output
