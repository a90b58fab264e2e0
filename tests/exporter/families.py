"""A small random model of each family whose layout pruning knows, with text for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from exporter.text import Text
from tests.exporter.conftest import random_model


def random_text(rows: int = 4, length: int = 40, seed: int = 0) -> Text:
    """Rows of random tokens, the last one shorter than the others."""
    draw = np.random.default_rng(seed)
    lengths = [length] * (rows - 1) + [length - 7]
    return Text(tuple(tuple(draw.integers(0, 250, n).tolist()) for n in lengths), "random rows")


def random_gpt2() -> Any:
    """GPT-2: transposed weights, one matrix for queries, keys and values."""
    return _random(
        "GPT2LMHeadModel", n_embd=64, n_inner=96, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1
    )


def random_encoder(kind: str = "BertModel", **changes: Any) -> Any:
    """A two-layer encoder with biases everywhere."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return _random(kind, **sizes, max_position_embeddings=64, **changes)


def outputs(model: Any, text: Text | None = None) -> Any:
    """The model's first output for the first row of `text`: logits, or hidden states of a bare encoder."""
    import torch

    ids = torch.tensor([(text or random_text()).rows[0]])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]


def ignore(share: float) -> None:
    """Progress that nobody watches."""


def _random(kind: str, **settings: Any) -> Any:
    import torch
    import transformers

    model_class = getattr(transformers, kind)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(vocab_size=300, **settings)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.15)
    return model


DECODERS: Final[dict[str, Callable[[], Any]]] = {
    "Llama": lambda: random_model("Llama"),
    "Mistral": lambda: random_model("Mistral"),
    "Qwen2": lambda: random_model("Qwen2"),
    "Qwen3": lambda: random_model("Qwen3", head_dim=32),
    "Gemma2": lambda: random_model("Gemma2", head_dim=16, sliding_window=64),
    "Gemma3": lambda: random_model("Gemma3", config="Gemma3Text", head_dim=16, sliding_window=64),
    "Phi3": lambda: random_model("Phi3"),
    "GPT2": random_gpt2,
}
ENCODERS: Final[dict[str, Callable[[], Any]]] = {
    "Bert": random_encoder,
    "BertForSequenceClassification": lambda: random_encoder("BertForSequenceClassification", num_labels=3),
    "DistilBert": lambda: _random(
        "DistilBertModel", dim=64, hidden_dim=96, n_layers=2, n_heads=4, max_position_embeddings=64
    ),
}
FAMILIES: Final = {**DECODERS, **ENCODERS}
