"""Small random checkpoints, and SmolLM2's fp32 graph, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edge_agent.manifest import Graph

ROOT = Path(__file__).resolve().parent.parent.parent
GGUF = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CHATML = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}<s>assistant"
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": None,
}


class Exported(NamedTuple):
    """A model in torch and its fp32 graph on disk."""

    model: Any
    path: Path
    graph: Graph


def random_model(architecture: str, *, config: str = "", **changes: Any) -> Any:
    """A random causal language model, for example a `Llama`, whose logits differ clearly from one another.

    `config` names the family's configuration where it is called otherwise.
    """
    import torch
    import transformers

    settings = getattr(transformers, f"{config or architecture}Config")(**{**SIZES, **changes})
    torch.set_num_threads(1)  # two threads only wait for one another over matrices this small
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(settings).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def byte_tokenizer() -> Any:
    """A tokenizer with one token per byte, and a chat template that ends each turn with </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHATML
    return tokenizer


def encoder_checkpoint(folder: Path, kind: str = "BertForSequenceClassification", **changes: Any) -> Path:
    """A directory with a random one-layer encoder of class `kind`, for example `RobertaModel`, and a tokenizer."""
    import torch
    import transformers

    family = next(
        kind.removesuffix(head) for head in (f"For{kind.partition('For')[2]}", "Model") if kind.endswith(head)
    )
    sizes = {**SIZES, "num_hidden_layers": 1, "max_position_embeddings": 64, "pad_token_id": 1}
    config = getattr(transformers, f"{family}Config")(**{**sizes, **changes})
    torch.manual_seed(0)
    getattr(transformers, kind)(config).eval().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def exported(model: Any, folder: Path, context: int = 64) -> Exported:
    """Convert `model` and write its graph below `folder`."""
    from exporter.convert import convert, describe
    from exporter.graph_file import write_graph

    converted = convert(model, context)
    graph = describe(converted)
    path = folder / graph.path
    path.parent.mkdir(parents=True)
    write_graph(converted, path)
    return Exported(model, path, graph)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tied two-layer Llama and its graph."""
    model = random_model("Llama", tie_word_embeddings=True)
    return exported(model, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An untied two-layer Mistral that sees a window of 8 positions, and its graph."""
    model = random_model("Mistral", sliding_window=8)
    return exported(model, tmp_path_factory.mktemp("windowed"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory with that Llama, a tokenizer and a chat template. Do not write into it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-llama"
    model = random_model("Llama", tie_word_embeddings=True, max_position_embeddings=256, num_hidden_layers=1)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture
def broken_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Callable[[], Path]:
    """A copy of the tiny checkpoint that a test may damage."""
    import shutil

    return lambda: Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))


@pytest.fixture(scope="session")
def smollm2_source() -> Any:
    """SmolLM2, opened once."""
    from exporter.source import open_source

    return open_source(str(GGUF))


@pytest.fixture(scope="session")
def smollm2_fp32(smollm2_source: Any, bundle: Path) -> Exported:
    """SmolLM2 in torch, and the fp32 graph that `edge-export` wrote for it."""
    from edge_agent.bundle import open_bundle

    graph = open_bundle(bundle).manifest.graphs[0]
    return Exported(smollm2_source.model, bundle / graph.path, graph)
