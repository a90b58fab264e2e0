"""Small encoder bundles whose answers can be read off their tables: each word has its own numbers.

The graph looks every token up in a table; a text is what its words say on average. No weights, nothing to download.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_agent.bundle import write_bundle
from edge_agent.manifest import EncoderInfo, GenerationDefaults, Graph, Manifest, Sample
from tests.edge_agent.conftest import draft_manifest

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("good", "bad", "ada", "lovelace", "met", "in", "london", "who", "where")


def build_encoder(
    path: Path, task: str, rows: Mapping[str, Sequence[float]], *, types: bool = True, vocabulary: int | None = None
) -> Graph:
    """Write a graph for `task` that gives each word the numbers of `rows` (others zeros)."""
    from onnx import TensorProto, helper, numpy_helper

    width = len(next(iter(rows.values())))
    table = np.zeros((vocabulary or len(SPECIAL) + len(WORDS), width), np.float32)
    for word, numbers in rows.items():
        table[len(SPECIAL) + WORDS.index(word)] = numbers
    node = helper.make_node
    nodes = [node("Gather", ["table", "input_ids"], ["tokens"])]
    weights = [numpy_helper.from_array(table, "table")]

    def add(name: str, value: Any) -> None:
        weights.append(numpy_helper.from_array(np.asarray(value), name))

    shapes: dict[str, list[str | int]]
    if task == "token-classification":
        shapes = {"logits": ["batch", "sequence", width]}
        nodes.append(node("Identity", ["tokens"], ["logits"]))
    elif task == "question-answering":
        shapes = {name: ["batch", "sequence"] for name in ("start_logits", "end_logits")}
        for column, name in enumerate(shapes):
            add(f"column{column}", np.array(column, np.int64))
            nodes.append(node("Gather", ["tokens", f"column{column}"], [name], axis=2))
    else:
        name = "logits" if task == "text-classification" else "embedding"
        shapes = {name: ["batch", width]}
        add("last", np.array([2], np.int64))
        add("middle", np.array([1], np.int64))
        nodes += [
            node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["mask", "last"], ["column"]),
            node("Mul", ["tokens", "column"], ["kept"]),
            node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
            node("ReduceSum", ["column", "middle"], ["count"], keepdims=0),
            node("Div", ["sum", "count"], [name]),
        ]
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        weights,
    )
    opsets = [helper.make_opsetid("", 21)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return Graph(path="model/encoder.onnx", dialect="ort", inputs=tuple(inputs), outputs=tuple(shapes))


def build_word_tokenizer(path: Path) -> None:
    """One token for each word; `##s` makes a plural, so that some words have two."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.save(str(path))


def encoder_manifest(graph: Graph, task: str, info: EncoderInfo, samples: Sequence[Sample] = ()) -> Manifest:
    """A manifest of which `write_bundle` fills in the rest."""
    draft = draft_manifest(graph)
    return msgspec.structs.replace(
        draft,
        task=task,
        encoder=info,
        samples=tuple(samples),
        generation=GenerationDefaults(stop_ids=()),
        tokenizer=msgspec.structs.replace(draft.tokenizer, chat_template=None),
    )


def encoder_bundle(
    folder: Path,
    task: str,
    rows: Mapping[str, Sequence[float]],
    *,
    max_tokens: int = 16,
    labels: Sequence[str] = (),
    samples: Sequence[Sample] = (),
    vocabulary: int | None = None,
) -> Path:
    """A bundle below `folder` for `task`, whose words have the numbers of `rows`."""
    staging = folder / "staging"
    (staging / "model").mkdir(parents=True)
    (staging / "tokenizer").mkdir()
    graph = build_encoder(staging / "model" / "encoder.onnx", task, rows, vocabulary=vocabulary)
    build_word_tokenizer(staging / "tokenizer" / "tokenizer.json")
    pooling = "mean" if task == "feature-extraction" else None
    info = EncoderInfo(max_tokens=max_tokens, labels=tuple(labels), pooling=pooling)
    write_bundle(staging, folder / "bundle", encoder_manifest(graph, task, info, samples))
    return folder / "bundle"
