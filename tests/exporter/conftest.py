"""Small random checkpoints, and SmolLM2's fp32 graph, shared by the tests of this folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edge_agent.manifest import Graph
from exporter.convert import Dialect

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


@pytest.fixture(scope="session", autouse=True)
def _translations_registered_once() -> Iterator[None]:
    """PyTorch registers its translations to ONNX anew for each graph, a fifth of the time that a tiny model takes."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    once = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _every_graph_may_be_opened() -> Iterator[None]:
    """Whatever graph any test of this folder writes is one that a device takes: operators, fields and weights."""
    from edge_agent.graph_check import check_graph
    from exporter import graph_file

    write = graph_file.write_graph

    def checked(model: Any, path: Path) -> int:
        size_bytes = write(model, path)
        beside = {f"model/{one.name}": one.stat().st_size for one in path.parent.iterdir() if one.is_file()}
        check_graph(path, f"model/{path.name}", beside)
        return size_bytes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_file, "write_graph", checked)
        yield


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


def exported(model: Any, folder: Path, context: int = 64, dialect: Dialect = "ort", *, half: bool = False) -> Exported:
    """Convert `model` and write its graph below `folder`."""
    from exporter.convert import convert, describe
    from exporter.graph_file import write_graph

    converted = convert(model, context, dialect, half=half)
    graph = describe(converted, dialect)
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


WINDOW = 8  # positions, in models that are run over 40
STANDARD_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    # biases on queries, keys and values
    "qwen2": ("Qwen2", {"num_hidden_layers": 1, "sliding_window": None}),
    # norms before the rotation, heads wider than hidden
    "qwen3": ("Qwen3", {"num_hidden_layers": 1, "head_dim": 32}),
    # soft caps of scores and logits, scaled embeddings, four norms a layer
    "gemma2": (
        "Gemma2",
        {
            "num_hidden_layers": 1, "head_dim": 16, "sliding_window": WINDOW, "layer_types": ["sliding_attention"],
            "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0,
        },
    ),
    # two rotary tables, one layer with a window and one without
    "gemma3": (
        "Gemma3",
        {
            "config": "Gemma3Text", "head_dim": 16, "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "mistral": ("Mistral", {"num_hidden_layers": 1, "sliding_window": WINDOW}),
    "phi3": ("Phi3", {"num_hidden_layers": 1}),  # projections that the model packs itself
    "gpt2": ("GPT2", {"num_hidden_layers": 1}),  # learned positions, norms with biases, layers that are a Gemm
    # rotates part of a head, so that the rotation is computed outside, from positions in floating point
    "stablelm": ("StableLm", {"num_hidden_layers": 1}),
}  # fmt: skip


@pytest.fixture(scope="session", params=["llama", *STANDARD_FAMILIES])
def standard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A random model of each family, and its graph of dialect `onnx` in fp32. Traced once, so do not write into it."""
    if request.param == "llama":
        shared: Exported = request.getfixturevalue("standard_llama")
        return shared
    architecture, changes = STANDARD_FAMILIES[request.param]
    model = random_model(architecture, **changes)
    return exported(model, tmp_path_factory.mktemp("standard"), dialect="onnx")


@pytest.fixture(scope="session")
def standard_llama(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tied two-layer Llama whose matrices are whole blocks of 64, and its graph of dialect `onnx` in fp32."""
    model = random_model("Llama", tie_word_embeddings=True, intermediate_size=128)
    return exported(model, tmp_path_factory.mktemp("standard"), dialect="onnx")


def derived(case: Exported, folder: Path, change: Callable[[Any], object], dialect: Dialect = "onnx") -> Exported:
    """What `change` makes of the case's graph, written below `folder`."""
    import onnx_ir as ir

    from exporter.convert import describe
    from exporter.graph_file import write_graph

    graph_model = ir.load(case.path)
    change(graph_model)
    graph = describe(graph_model, dialect)
    path = folder / graph.path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_graph(graph_model, path)
    return Exported(case.model, path, graph)


def worst_difference(case: Exported) -> tuple[float, float]:
    """The largest difference from PyTorch's logits, and the largest of these, over a prefill of 40 tokens, a prefill
    of 20, one of 5 over a past and steps of one token.
    """
    import numpy as np
    import torch

    from edge_agent.runtime.decoder import Decoder
    from exporter.surrogate import SurrogateDecoder

    ids = np.random.default_rng(1).integers(0, 256, 40).tolist()
    with torch.inference_mode():
        wanted = case.model(input_ids=torch.tensor([ids])).logits[0].numpy()
    opened = Decoder if case.graph.dialect == "ort" else SurrogateDecoder
    decoder = opened(case.path, case.graph, context=48, threads=1)
    got = [np.abs(decoder.logits(ids) - wanted).max()]
    got.append(np.abs(decoder.prefill(ids[:20]) - wanted[19]).max())
    got.append(np.abs(decoder.extend(ids[20:25]) - wanted[24]).max())
    got += [np.abs(decoder.step(ids[position]) - wanted[position]).max() for position in range(25, 40)]
    return float(np.max(got)), float(np.abs(wanted).max())


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
