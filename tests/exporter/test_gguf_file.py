"""Reading GGUF files, whole and broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.errors import SourceError
from exporter.gguf_file import read_gguf
from exporter.source import open_source

WIDTH = 32


def tiny_gguf(
    path: Path, architecture: str = "llama", *, tensors: bool = True, more: tuple[str, ...] = (), **fields: Any
) -> Path:
    """A one-layer Llama with one token per byte and no chat template; `more` tensors and metadata `fields`."""
    import gguf
    from tokenizers import pre_tokenizers

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(fields.pop("rotated", 8))
    for key, value in fields.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        writer.add_string(name, value) if isinstance(value, str) else writer.add_float32(name, value)
    writer.add_tokenizer_model("gpt2")
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "</s>"]
    writer.add_token_list(tokens)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(len(tokens) - 1)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,),
        "blk.0.attn_norm": (WIDTH,), "blk.0.ffn_norm": (WIDTH,),
        "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (16, WIDTH), "blk.0.attn_v": (16, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (WIDTH, WIDTH), "blk.0.ffn_up": (WIDTH, WIDTH),
        "blk.0.ffn_down": (WIDTH, WIDTH),
    }  # fmt: skip
    for name, shape in shapes.items():
        if tensors:
            writer.add_tensor(f"{name}.weight", draw.standard_normal(shape).astype(np.float32))
    for name in more:
        writer.add_tensor(name, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_gives_model_tokenizer_and_licence(tmp_path: Path) -> None:
    """Weights, tied head, rotary frequencies, tokenizer and licence are the file's; it computes."""
    import torch

    model, tokenizer, licence, _ = read_gguf(tiny_gguf(tmp_path / "tiny.gguf"))
    assert licence == "apache-2.0"
    assert tokenizer.decode(tokenizer.encode("the end")) == "the end"
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.model.rotary_emb.inv_freq.tolist()[0] == 1
    with torch.inference_mode():
        assert bool(model(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all())


def test_weights_are_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model uses the very tensors that were read, so no second copy exists at any time."""
    from transformers import modeling_gguf_pytorch_utils as reading

    read: dict[str, Any] = {}
    before = reading.load_gguf_checkpoint

    def watched(*args: Any, **named: Any) -> Any:
        found = before(*args, **named)
        read.update(found.get("tensors", {}))
        return found

    monkeypatch.setattr(reading, "load_gguf_checkpoint", watched)
    model, *_ = read_gguf(tiny_gguf(tmp_path / "tiny.gguf"))
    held = dict(model.named_parameters())
    assert read
    assert {name: held[name].data_ptr() for name in read} == {name: one.data_ptr() for name, one in read.items()}


def test_a_source_says_what_it_is_and_asks_plainly(tmp_path: Path) -> None:
    """Floats are not stored in 4 bits, whatever the file is called; without a template a question is its own prompt."""
    path = tiny_gguf(tmp_path / "tiny-Q4_0.gguf")
    source = open_source(str(path))
    assert (source.task, source.encoder, source.in_four_bits) == ("text-generation", None, False)
    assert (source.info.name, source.info.context_length) == ("tiny", 64)
    assert source.prompt_ids("the") == source.tokenizer.encode("the")
    with pytest.raises(SourceError, match="opened for text-generation, not for feature-extraction"):
        open_source(str(path), task="feature-extraction")


@pytest.mark.parametrize("kept", [6, 12, 40, 400, 0.5, 0.99])
def test_a_truncated_file_is_called_truncated(kept: float, tmp_path: Path) -> None:
    """Wherever the file ends too early, in its header, its metadata or its weights, one line says so."""
    path = tiny_gguf(tmp_path / "tiny.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept > 1 else kept * len(whole))])
    with pytest.raises(SourceError, match="is truncated") as refused:
        read_gguf(path)
    assert "\n" not in str(refused.value)


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    """A GGUF file of an architecture that nobody knows is refused by that name."""
    with pytest.raises(SourceError, match="architecture 'never-heard-of'"):
        read_gguf(tiny_gguf(tmp_path / "odd.gguf", "never-heard-of"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"more": ("rope_freqs.weight",)}, r"scales its rotary positions \(rope_freqs.weight\)"),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, r"scales its rotary positions \(linear\)"),
        ({"more": ("blk.0.attn_gate.weight",)}, "has 12 tensors, of which its architecture takes 11 only"),
    ],
)
def test_what_would_be_lost_is_refused(settings: Any, named: str, tmp_path: Path) -> None:
    """Metadata and tensors that transformers drops without a word would give another model."""
    with pytest.raises(SourceError, match=named):
        read_gguf(tiny_gguf(tmp_path / "lossy.gguf", **settings))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """The file, not the place where the bundle would go."""
    folder = tmp_path / "folder.gguf"
    folder.mkdir()
    with pytest.raises(SourceError, match=r"folder\.gguf cannot be read: Is a directory"):
        read_gguf(folder)


def test_a_file_without_its_weights_says_which(tmp_path: Path) -> None:
    """Weights that the architecture needs and the file lacks are counted."""
    with pytest.raises(SourceError, match=r"lacks \d+ weights"):
        read_gguf(tiny_gguf(tmp_path / "bare.gguf", tensors=False))


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """Garbage is no GGUF file, and an odd version or overwritten metadata is one line."""
    path = tmp_path / "garbage.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(SourceError, match="neither a model directory nor a GGUF file"):
        read_gguf(path)
    whole = tiny_gguf(path).read_bytes()
    for damaged in (b"GGUF" + b"\x63" + whole[5:], whole[:30] + b"\xff" * 40 + whole[70:]):
        path.write_bytes(damaged)
        with pytest.raises(SourceError) as refused:
            read_gguf(path)
        assert "\n" not in str(refused.value)
