"""Small random encoders and their graphs, shared by the tests of this folder."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.manifest import EncoderInfo, Graph

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 66,
}
HEADS = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "feature-extraction": "Model",
}
LABELS = ("yes", "no", "maybe")
_folder = tempfile.TemporaryDirectory(prefix="edgefleet-test-encoders-")


class ExportedEncoder(NamedTuple):
    """An encoder in torch, and its fp32 graph on disk."""

    model: Any
    task: str
    info: EncoderInfo
    path: Path
    graph: Graph


def random_encoder(family: str, task: str, **changes: Any) -> Any:
    """A random encoder, for example a `Bert`, with the head of `task`."""
    import torch
    import transformers

    labels = 2 if task == "question-answering" else len(LABELS)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, "num_labels": labels, **changes})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}{HEADS[task]}")(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def info_for(task: str, **changes: Any) -> EncoderInfo:
    """What the manifest says of a random encoder: 64 tokens, and mean pooling or labels."""
    if task == "feature-extraction":
        return EncoderInfo(**{"max_tokens": 64, "pooling": "mean", "normalize": True, **changes})
    return EncoderInfo(**{"max_tokens": 64, "labels": () if task == "question-answering" else LABELS, **changes})


@functools.cache
def exported_encoder(family: str, task: str) -> ExportedEncoder:
    """A random encoder and its graph, made once for all tests: tracing takes seconds."""
    from exporter.convert_encoder import convert_encoder, describe_encoder
    from exporter.graph_file import write_graph

    sizes = {
        "DistilBert": {"dim": 64, "hidden_dim": 96, "n_layers": 1, "n_heads": 4},
        "Electra": {"embedding_size": 32},
    }
    model, info = random_encoder(family, task, **sizes.get(family, {})), info_for(task)
    converted = convert_encoder(model, task, info)
    graph = describe_encoder(converted)
    path = Path(_folder.name) / f"{family}-{task}" / graph.path
    path.parent.mkdir(parents=True)
    write_graph(converted, path)
    return ExportedEncoder(model, task, info, path, graph)
