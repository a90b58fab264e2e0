"""Texts become rows of ids that know where in the text they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.errors import BundleError, RequestError
from edge_agent.runtime.encoding import TextEncoder
from tests.edge_agent.encoder_bundles import build_word_tokenizer


@pytest.fixture
def words(tmp_path: Path) -> Path:
    build_word_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


def test_tokens_know_their_characters(words: Path) -> None:
    """Offsets are characters of the text that was given, special tokens belong to none."""
    text = "Ada  met BAD"
    row = TextEncoder(words, 16).encode(text)
    assert row.ids == (2, 6, 8, 5, 3)
    assert [text[start:end] for start, end in row.offsets] == ["", "Ada", "met", "BAD", ""]
    assert row.texts == (None, 0, 0, 0, None)
    assert (row.words[1:4], row.is_cut) == ((0, 1, 2), False)


def test_a_long_text_is_cut_and_says_so(words: Path) -> None:
    """At most `max_tokens` ids, the special ones among them."""
    row = TextEncoder(words, 4).encode("good bad good bad")
    assert row.ids == (2, 4, 5, 3)
    assert row.is_cut


def test_a_long_second_text_is_read_in_overlapping_windows(words: Path) -> None:
    """Each window has the whole first text, and together they hold every token of the second one."""
    text = " ".join(["good", "bad"] * 9)
    rows = TextEncoder(words, 12).encode_pair("who met", text)
    assert len(rows) > 2
    seen = {offset for row in rows for offset, which in zip(row.offsets, row.texts, strict=True) if which == 1}
    assert len(seen) == 18
    assert all(row.ids[1:3] == (11, 8) and len(row.ids) <= 12 for row in rows)
    assert sum(len(row.ids) - 5 for row in rows) > 18


@pytest.mark.parametrize("text", ["", "   "])
def test_a_text_without_tokens_is_refused(words: Path, text: str) -> None:
    """Nothing but special tokens is no text."""
    encoder = TextEncoder(words, 16)
    with pytest.raises(RequestError, match="holds no tokens"):
        encoder.encode(text)
    with pytest.raises(RequestError, match="holds no tokens"):
        encoder.encode_pair("who", text)


def test_a_question_that_fills_the_row_is_refused(words: Path) -> None:
    """There must be room for the text."""
    with pytest.raises(RequestError, match="leaves 0 of 8 tokens to the text") as failure:
        TextEncoder(words, 8).encode_pair("who met who met who", "good")
    assert failure.value.code == "too_large"


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    """A file that is no tokenizer is one line."""
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="not a readable tokenizer"):
        TextEncoder(tmp_path / "tokenizer.json", 16)
