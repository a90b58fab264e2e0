"""Which text is scored: rows of a file, or what the model itself writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporter import text
from exporter.errors import CalibrationError
from exporter.text import SCORED_TOKENS, text_from_file, text_from_model
from tests.exporter.conftest import Exported, byte_tokenizer


def test_sampled_text_is_enough_and_the_seed_decides_it(tiny_llama: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 4,000 tokens are scored; the same seed gives the same rows, another one others."""
    tokenizer = byte_tokenizer()
    first = text_from_model(tiny_llama.model, tokenizer, seed=1)
    assert first.scored_tokens >= SCORED_TOKENS >= 4000
    assert all(len(row) <= 64 for row in first.rows)
    monkeypatch.setattr(text, "SCORED_TOKENS", 200)  # enough to tell seeds apart
    first = text_from_model(tiny_llama.model, tokenizer, seed=1)
    assert first == text_from_model(tiny_llama.model, tokenizer, seed=1)
    assert first.rows != text_from_model(tiny_llama.model, tokenizer, seed=2).rows


def test_rows_of_a_file_are_tokenized(tmp_path: Path) -> None:
    """Each row's text becomes one row of tokens; blank lines do not count."""
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "abc" * 1000}) + "\n\n" + json.dumps({"text": "é" * 800, "id": 1}) + "\n")
    read = text_from_file(path, byte_tokenizer())
    assert [len(row) for row in read.rows] == [3000, 1600]
    assert read.origin.startswith("text.jsonl sha256:")


def test_much_text_is_cut(tmp_path: Path) -> None:
    """A file of any size costs a bounded time."""
    path = tmp_path / "text.jsonl"
    path.write_text(3 * (json.dumps({"text": "a" * 10_000}) + "\n"))
    assert text_from_file(path, byte_tokenizer()).scored_tokens == 16_384


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "gives 0 tokens to score, at least 4096"),
        (b'{"text": "one line is too little"}\n', "gives 21 tokens to score, at least 4096"),
        (bytes(range(256)), 'line 1 is not a JSON object with a string "text"'),
        (b'{"text": 3}\n', "line 1"),
        (b'{"text": "a"}\n[1]\n', "line 2"),
        (b"[" * 100_000, "line 1"),
    ],
)
def test_text_that_cannot_be_used_is_refused_with_what_is_needed(content: bytes, named: str, tmp_path: Path) -> None:
    """Empty, short, binary or other files raise CalibrationError that says where and how much is needed."""
    path = tmp_path / "text.jsonl"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=named):
        text_from_file(path, byte_tokenizer())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(CalibrationError, match=r"none\.jsonl cannot be read"):
        text_from_file(tmp_path / "none.jsonl", byte_tokenizer())
