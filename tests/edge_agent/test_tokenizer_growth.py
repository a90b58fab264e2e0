"""Parts that make a text grow; whole bundles with such are in tests/edge_agent/hostile_bundles.py."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent.tokenizer_growth import growth_refusal

DOUBLING = {"type": "Replace", "pattern": {"String": " "}, "content": "  "}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def table(*texts: bytes) -> dict[str, Any]:
    """As sentencepiece writes it, with an index of four bytes."""
    payload = (4).to_bytes(4, "little") + bytes(4) + b"".join(text + b"\0" for text in texts)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(payload).decode()}


def row(*parts: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(parts)}


def replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


# Of ALBERT and T5, with the longest replacement of their table.
ALBERT = row(
    {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
    {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
    {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, table(b"x" * 33, b"y"), replace(" {2,}", " "),
)  # fmt: skip
SIGLIP = row({"type": "Lowercase"}, *(replace(pattern, " ") for pattern in ("[!,.]", r"\s+", "[\n\r\t]", "_+")))


@pytest.mark.parametrize("part", [None, ALBERT, SIGLIP, BYTES, row(DOUBLING), {"type": "Prepend", "prepend": "_"}])
def test_parts_of_known_models_are_taken(part: Any) -> None:
    """They come to less than the bound by far."""
    assert growth_refusal("normalizer", part) is None


@pytest.mark.parametrize(
    ("section", "part", "why"),
    [
        ("normalizer", row(*[DOUBLING] * 17), "more than 65536 times"),
        ("normalizer", row(*[replace("", "a")] * 17), "more than 65536 times"),
        ("normalizer", row(*[replace("x*", "aa")] * 11), "more than 65536 times"),
        ("normalizer", row(*[{"type": "NFKD"}, DOUBLING] * 5), "more than 65536 times"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [BYTES] * 9}, "more than 65536 times"),
        ("decoder", {"type": "Sequence", "decoders": [DOUBLING] * 17}, "more than 65536 times"),
        ("post_processor", {"type": "TemplateProcessing", "single": [TEXT] * 70_000}, "more than 65536 times"),
        ("normalizer", row(*[table(b"x" * 200)] * 3), "more than 65536 times"),
        ("normalizer", table(b"x" * 300), "makes 300 bytes of one character"),
        ("normalizer", row(*[{"type": "StripAccents"}] * 70), "more than 64 parts"),
        ("normalizer", {"type": "Prepend", "prepend": "x" * 300}, "puts in 300 characters"),
        ("normalizer", replace("a", "x" * 300), "puts in 300 characters"),
    ],
)
def test_what_grows_without_bound_is_refused(section: str, part: Any, why: str) -> None:
    """Before anything runs: a trillion characters take no time to write down."""
    assert why in (growth_refusal(section, part) or "")


@pytest.mark.parametrize(
    "part", [{"type": "Replace"}, {"type": 5}, {"type": "Precompiled", "precompiled_charsmap": "?"}]
)
def test_what_the_library_will_refuse_is_left_to_it(part: Any) -> None:
    """Settings of a wrong kind are no growth."""
    assert growth_refusal("normalizer", row(part)) is None


def test_a_real_tokenizer_is_taken(tiny_tokenizer: Path) -> None:
    """All its parts."""
    said = json.loads(tiny_tokenizer.read_bytes())
    for section in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        assert growth_refusal(section, said.get(section)) is None
