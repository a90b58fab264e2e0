"""Opening checkpoints, and one line for each way in which they can be broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import SourceError
from exporter.source import open_source


def test_a_directory_gives_model_tokenizer_and_facts(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Name, licence, size, context and stop ids are the checkpoint's; the tokenizer's files work alone."""
    from tokenizers import Tokenizer

    source = open_source(str(tiny_checkpoint))
    assert source.info.name == "tiny-llama"
    assert source.info.licence == "apache-2.0"
    assert source.info.architecture == "LlamaForCausalLM"
    assert source.info.parameters == sum(p.numel() for p in source.model.parameters())
    assert source.info.context_length == 256
    assert source.stop_ids == (257,)
    info = source.save_tokenizer(tmp_path / "tokenizer")
    assert (info.bos_token, info.eos_token, info.vocabulary) == ("<s>", "</s>", 300)
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == [
        "chat_template.jinja", "generation_config.json", "tokenizer.json",
    ]  # fmt: skip
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert alone.encode("naïve", add_special_tokens=False).ids == source.tokenizer.encode("naïve")


def test_every_way_to_stop_is_known(broken_checkpoint: Callable[[], Path]) -> None:
    """Stop ids are the union of configuration, generation configuration and the template's end of turn."""
    folder = broken_checkpoint()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 5]}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    assert open_source(str(folder)).stop_ids == (3, 5, 7, 257)


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def lose_a_weight(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop("model.norm.weight"))


def poison(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rename_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "never-heard-of"}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncate, "truncated or damaged"),
        (lose_a_weight, r"lacks 1 weights of its architecture, the first is model\.norm\.weight"),
        (poison, r"model\.norm\.weight holds values that are not finite"),
        (rename_architecture, "never-heard-of"),
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \.safetensors file"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be opened"),
    ],
)
def test_a_broken_checkpoint_is_refused_in_one_line(
    damage: Callable[[Path], object], named: str, broken_checkpoint: Callable[[], Path]
) -> None:
    """Whatever is wrong with a directory, the error is one line that says what."""
    folder = broken_checkpoint()
    damage(folder)
    with pytest.raises(SourceError, match=named) as refused:
        open_source(str(folder))
    assert "\n" not in str(refused.value)


def gguf_of(architecture: str, path: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_an_unknown_gguf_architecture_is_named(tmp_path: Path) -> None:
    """A GGUF file of an architecture that nobody knows is refused by that name."""
    with pytest.raises(SourceError, match="never-heard-of"):
        open_source(str(gguf_of("never-heard-of", tmp_path / "odd.gguf")))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    """Neither garbage nor the first bytes of a GGUF file pass for one."""
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"not a model")
    with pytest.raises(SourceError, match="neither a model directory nor a GGUF file"):
        open_source(str(garbage))
    garbage.write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(str(garbage))


@pytest.mark.parametrize("where", ["/no/such/folder", "no/such/deep/path", "missing.gguf"])
def test_a_path_that_does_not_exist_is_no_hub_id(where: str) -> None:
    """What looks like a path is not looked up on the network."""
    with pytest.raises(SourceError, match="does not exist"):
        open_source(where)


@pytest.mark.model
@pytest.mark.slow
def test_smollm2_opens_from_its_gguf(smollm2_source: Any) -> None:
    """The GGUF gives the model, its licence, its name without the quantization, and its end of turn."""
    info = smollm2_source.info
    assert (info.name, info.licence) == ("SmolLM2-135M-Instruct", "apache-2.0")
    assert (info.parameters, info.context_length) == (134_515_008, 8192)
    assert smollm2_source.stop_ids == (2,)
    assert len(smollm2_source.prompt_ids("What is the capital of France?")) == 37
