"""Patterns that are taken and refused; files that are refused are in tests/edge_agent/hostile_bundles.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.errors import BundleError
from edge_agent.tokenizer_check import check_tokenizer, pattern_refusal

# Of GPT-2, Llama 3, Qwen 2, GPT-4o, DeepSeek V3 and BLOOM, as their tokenizer.json have them.
KNOWN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
    " ?[^(\\s|[.,!?…])]+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s",
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"(```(?:python|py)[^\S\n]*\n\s*>>> )(.*?```)",
    " {2,}",
)


@pytest.mark.parametrize("pattern", KNOWN)
def test_patterns_of_known_models_are_taken(pattern: str) -> None:
    """None of them repeats what repeats."""
    assert pattern_refusal(pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+", "(a*)*", "(?:a|a+)*b", r"(\w+\s?)+", "(a{2,9}){3}", "((a+)b)*", "([ab]*c?){5,}", "(a?b*)+", "[)](x+)+",
        "[[]](x+)+", r"\((x+)+\)", "(a{100}){100}", "(?:(?:a{3})*)*", "(x+){2}",
    ],
)  # fmt: skip
def test_what_repeats_what_repeats_is_refused(pattern: str) -> None:
    """Brackets in classes and behind backslashes do not hide it."""
    assert pattern_refusal(pattern) == "repeats what repeats already"


@pytest.mark.parametrize("pattern", ["(a|a)*$", "(?:a?b)*", r"(\w|\S){21}", "(?i:a|A)+$", "(?:(?:a|a){16}){16}$"])
def test_what_repeats_a_choice_is_refused(pattern: str) -> None:
    """Each turn has several ways to match the same."""
    assert pattern_refusal(pattern) == "repeats a choice"


@pytest.mark.parametrize("pattern", ["(a|a)" * 11, "a?" * 11 + "a{11}", "[ab]*" * 5 + "c", "(a|(b|c)?)" * 6])
def test_many_choices_in_a_row_are_refused(pattern: str) -> None:
    """They are what a repetition of one is, written out."""
    assert pattern_refusal(pattern) == "has more than 4 repetitions in a row, or more than 1024 choices"


@pytest.mark.parametrize(
    "pattern",
    ["(?x)(a+) +", "(?-ix:(a+) +)", "(?#[)(a+)+", r"\c[(a+)+]", r"[\c](a+)+]", r"\Q[\E(a+)+]", "(?~b)", "(?{x})"],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused(pattern: str) -> None:
    """Comments, blanks that are none and quotes could hide a repetition from this check."""
    assert pattern_refusal(pattern) is not None


@pytest.mark.parametrize("pattern", [r"(a)\1", r"(?<x>a)\k<x>", r"(a\g<0>?)", "(?R)", "(?P>x)", "(?(1)a|b)", "(*FAIL)"])
def test_what_refers_back_is_refused(pattern: str) -> None:
    """No tokenizer needs it, and it makes matching exponential."""
    assert pattern_refusal(pattern) is not None


def test_a_real_tokenizer_is_taken(tiny_tokenizer: Path, tmp_path: Path) -> None:
    """And one that is gone is one line."""
    check_tokenizer(tiny_tokenizer)
    with pytest.raises(BundleError, match="cannot be read"):
        check_tokenizer(tmp_path / "none.json")
