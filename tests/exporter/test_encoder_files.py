"""What an encoder's files say of its outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent.manifest import EncoderInfo
from exporter.encoder_files import encoder_info, has_modules, positions_of
from exporter.errors import SourceError

MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")


class Tokenizer:
    """Knows a limit only."""

    def __init__(self, model_max_length: int = int(1e30)) -> None:
        self.model_max_length = model_max_length


def model_of(name: str = "Bert", **changes: Any) -> Any:
    import transformers

    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    config = getattr(transformers, f"{name}Config")(**{**sizes, "max_position_embeddings": 64, **changes})
    return getattr(transformers, f"{name}Model")(config)


def info(folder: Path, task: str = "feature-extraction", model: Any = None, limit: int = int(1e30)) -> EncoderInfo:
    return encoder_info(str(folder), task, model or model_of(), Tokenizer(limit), 64, local=True)


def sentence_files(folder: Path, *modes: str, modules: tuple[str, ...] = ("Transformer", "Pooling")) -> Path:
    """The files of sentence-transformers, with these poolings on."""
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 8} | {f"pooling_mode_{mode}": mode in modes for mode in MODES}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("mode", "pooling"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("max_tokens", "max")])
def test_pooling_is_what_the_files_say(mode: str, pooling: str, tmp_path: Path) -> None:
    """Each of the three poolings is read, and normalization only where a module of that kind is listed."""
    assert not has_modules(str(tmp_path), local=True)
    sentence_files(tmp_path, mode)
    assert has_modules(str(tmp_path), local=True)
    assert (info(tmp_path).pooling, info(tmp_path).normalize) == (pooling, False)


def test_normalization_is_a_module(tmp_path: Path) -> None:
    """A module Normalize at the end makes the embedding's length one."""
    sentence_files(tmp_path, "mean_tokens", modules=("Transformer", "Pooling", "Normalize"))
    assert info(tmp_path).normalize


@pytest.mark.parametrize(
    ("modes", "modules", "named"),
    [
        (("mean_sqrt_len_tokens",), ("Transformer", "Pooling"), "pools by pooling_mode_mean_sqrt_len_tokens"),
        (("mean_tokens", "cls_token"), ("Transformer", "Pooling"), "pooling_mode_cls_token and pooling_mode_mean"),
        ((), ("Transformer", "Pooling"), "pools by nothing"),
        (("mean_tokens",), ("Transformer", "Pooling", "Dense"), "ends in Dense"),
        (("mean_tokens",), ("Transformer",), "names no pooling"),
    ],
)
def test_other_poolings_are_refused_by_name(
    modes: tuple[str, ...], modules: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    """A pooling or a module that no graph carries is named."""
    with pytest.raises(SourceError, match=named):
        info(sentence_files(tmp_path, *modes, modules=modules))


def test_a_plain_encoder_is_pooled_by_its_mean(tmp_path: Path) -> None:
    """Without the files of sentence-transformers: the mean of the tokens, and as long as the model takes."""
    assert info(tmp_path) == EncoderInfo(max_tokens=64, pooling="mean", normalize=False)


def test_the_longest_text_is_the_strictest_limit_that_is_said(tmp_path: Path) -> None:
    """sentence_bert_config.json goes before the tokenizer's limit; neither can exceed the model's positions."""
    assert info(tmp_path, limit=20).max_tokens == 20
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    assert info(tmp_path, limit=20).max_tokens == 32
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
    assert info(tmp_path).max_tokens == 64


@pytest.mark.parametrize(
    ("name", "changes", "positions"),
    [
        ("Bert", {}, 64),
        ("Roberta", {"pad_token_id": 1}, 62),
        ("MPNet", {"pad_token_id": 1}, 62),
        ("DistilBert", {}, 64),
    ],
)
def test_positions_before_the_first_do_not_count(name: str, changes: dict[str, Any], positions: int) -> None:
    """RoBERTa and MPNet leave out the positions up to their padding index."""
    assert positions_of(model_of(name, **changes)) == positions


def test_labels_are_in_the_order_of_the_logits(tmp_path: Path) -> None:
    """Labels follow their ids, whatever order the configuration lists them in."""
    model = model_of(id2label={1: "b", 0: "a"})
    assert info(tmp_path, "token-classification", model).labels == ("a", "b")
    assert info(tmp_path, "question-answering", model).labels == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_labels": 1}, "gives 1 score and no choice"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
    ],
)
def test_heads_that_choose_no_one_label_are_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    """A regression and a classifier of many labels at once are no text classification of one label."""
    with pytest.raises(SourceError, match=named):
        info(tmp_path, "text-classification", model_of(**changes))


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    """A file that is no JSON is named."""
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(SourceError, match=r"modules\.json is no JSON"):
        info(tmp_path)
