"""Which text calibrates, and which judges: rows of files, or what the model itself writes. Never the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporter import text
from exporter.errors import CalibrationError
from exporter.text import (
    CALIBRATION_TOKENS,
    SCORED_TOKENS,
    Text,
    apart,
    halves,
    judged,
    rows_from_file,
    texts_from_model,
)
from tests.exporter.conftest import Exported, byte_tokenizer


def test_sampled_text_is_enough_and_the_seed_decides_it(tiny_llama: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 4,000 tokens are scored; a seed gives the same rows again, another others; no row is on both sides."""
    tokenizer = byte_tokenizer()
    first = texts_from_model(tiny_llama.model, tokenizer, seed=1)
    assert first.evaluation.scored_tokens >= SCORED_TOKENS >= 4000
    assert first.calibration.scored_tokens >= CALIBRATION_TOKENS
    assert all(len(row) <= 64 for row in first.evaluation.rows)
    assert not set(first.calibration.rows) & set(first.evaluation.rows)
    monkeypatch.setattr(text, "SCORED_TOKENS", 200)  # enough to tell seeds apart
    monkeypatch.setattr(text, "CALIBRATION_TOKENS", 100)
    first = texts_from_model(tiny_llama.model, tokenizer, seed=1)
    assert first == texts_from_model(tiny_llama.model, tokenizer, seed=1)
    assert first.evaluation.rows != texts_from_model(tiny_llama.model, tokenizer, seed=2).evaluation.rows


def test_rows_of_a_file_are_tokenized(tmp_path: Path) -> None:
    """Each row's text becomes one row of tokens; blank lines do not count, rows that hold a question are left out."""
    path = tmp_path / "text.jsonl"
    rows = [{"text": "abc" * 1000}, {"text": "é" * 800, "id": 1}, {"text": "Why? Because."}]
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    read = rows_from_file(path, byte_tokenizer(), without=["Why?"])
    assert [len(row) for row in read.rows] == [3000, 1600]
    assert read.origin.startswith("text.jsonl sha256:")


def test_much_text_is_cut(tmp_path: Path) -> None:
    """A file of any size costs a bounded time."""
    long = Text(tuple(tuple(range(n, n + 3000)) for n in range(5)), "t")
    assert judged(long, tmp_path).scored_tokens == 8192
    assert long.first(3000).rows == long.rows[:2]


def test_a_long_file_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough is enough: what follows is not even looked at."""
    monkeypatch.setattr(text, "_MAX_READ_TOKENS", 100)
    path = tmp_path / "long.jsonl"
    path.write_text('{"text": "twelve bytes"}\n' * 9 + "no JSON\n")
    assert len(rows_from_file(path, byte_tokenizer()).rows) == 9


def test_one_file_is_halved(tmp_path: Path) -> None:
    """Rows go to one side each, equal ones to the same; a single row cannot be both."""
    rows = tuple((n, n + 1) for n in range(6))
    calibration, evaluation = halves(Text((*rows, *rows), "t"), tmp_path)
    assert len(calibration.rows) == len(evaluation.rows) == 3
    assert not set(calibration.rows) & set(evaluation.rows)
    with pytest.raises(CalibrationError, match="has 1 row of text: at least 2 are needed"):
        halves(Text((rows[0], rows[0]), "t"), tmp_path / "one.jsonl")


def test_what_judges_does_not_calibrate(tmp_path: Path) -> None:
    """Rows of two files that are in both only judge, those that share a long run too; nothing left is an error."""
    one, other = Text(((1, 2), (3, 4)), "a"), Text(((3, 4), (5, 6)), "b")
    assert apart(one, other, tmp_path).rows == ((1, 2),)
    document, part, start = tuple(range(100)), tuple(range(40, 90)), (*range(1000, 1010), *range(15))
    assert apart(Text((part, start), "a"), Text((document,), "b"), tmp_path).rows == (start,)
    assert apart(Text((document, start), "a"), Text((part,), "b"), tmp_path).rows == (start,)
    with pytest.raises(CalibrationError, match="every row of it is in the evaluation text"):
        apart(other, other, tmp_path / "same.jsonl")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "holds no text"),
        (b'{"text": ""}\n', "holds no text"),
        (bytes(range(256)), 'line 1 is not a JSON object with a string "text"'),
        (b'{"text": 3}\n', "line 1"),
        (b'{"text": "ab"}\n[1]\n', "line 2"),
        (b"[" * 100_000, "line 1"),
        (b'{"text": "half a character: \\ud800"}\n', "line 1"),
    ],
)
def test_text_that_cannot_be_used_is_refused_with_what_is_needed(content: bytes, named: str, tmp_path: Path) -> None:
    """Empty, binary or other files raise CalibrationError that says where."""
    path = tmp_path / "text.jsonl"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=named):
        rows_from_file(path, byte_tokenizer())


def test_too_little_text_is_refused_with_how_much_is_needed(tmp_path: Path) -> None:
    """One line is no basis for a verdict."""
    with pytest.raises(CalibrationError, match="gives 21 tokens to score, at least 4096"):
        judged(Text((tuple(range(22)),), "t"), tmp_path / "short.jsonl")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(CalibrationError, match=r"none\.jsonl cannot be read"):
        rows_from_file(tmp_path / "none.jsonl", byte_tokenizer())
