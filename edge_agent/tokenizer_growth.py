"""How much larger can the parts of a tokenizer.json make a text?

Each part rewrites what the one before gave, so forty that double make a trillion of one character. A bound for each
part is known from its own settings; their product is held against a limit, before any of them runs. Knows nothing of
patterns (`tokenizer_check.py`) nor of what the text means.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any, Final

MAX_PARTS: Final = 64
MAX_GROWTH: Final = 2**16  # ALBERT's parts come to 10,000, by the worst character of each
MAX_CONTENT_CHARS: Final = 256
MAX_REPLACEMENT_BYTES: Final = (
    256  # of a table of characters; the longest of nmt_nfkc, a greeting in one letter, has 33
)

# Characters that one may become at most (Unicode 15; BertNormalizer: decomposed, lower case, spaces around Chinese).
_GROWTH: Final = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 2, "BertNormalizer": 12, "ByteLevel": 4}
# One character, class or escape, at least once: such a pattern finds no empty text.
_SURE: Final = re.compile(r"\^?(?:[^\\\[\](){}|.*+?^$]|\\[sSdDwWnrt]|\[[^\[\]\\]+\])(?:\+|\{[1-9]\d*,?\d*\})?\$?\Z")


def growth_refusal(section: str, part: Any) -> str | None:
    """Why `part`, the normalizer, pre_tokenizer, post_processor or decoder (`section`), is not taken; None if it is.

    >>> space = {"type": "Replace", "pattern": {"String": " "}, "content": "  "}
    >>> growth_refusal("normalizer", space)
    >>> growth_refusal("normalizer", {"type": "Sequence", "normalizers": [space] * 40})
    'could make a text more than 65536 times as large'
    """
    growth = 1
    for count, one in enumerate(_parts(part)):
        if count >= MAX_PARTS:
            return f"has more than {MAX_PARTS} parts"
        for name in ("content", "prepend"):
            if isinstance(text := one.get(name), str) and len(text) > MAX_CONTENT_CHARS:
                return f"puts in {len(text)} characters at once, at most {MAX_CONTENT_CHARS} are taken"
        kind = one.get("type")
        if kind == "Precompiled":
            replacement = _longest_replacement(one)
            if replacement > MAX_REPLACEMENT_BYTES:
                return f"makes {replacement} bytes of one character, at most {MAX_REPLACEMENT_BYTES} are taken"
            growth *= max(replacement, 1)
        elif kind == "Replace":
            growth *= _of_replace(one)
        elif kind == "TemplateProcessing":
            growth *= max(_sequences(one.get("single")), _sequences(one.get("pair")), 1)
        elif section in ("normalizer", "pre_tokenizer") and isinstance(kind, str):
            growth *= _GROWTH.get(kind, 1)
        if growth > MAX_GROWTH:
            return f"could make a text more than {MAX_GROWTH} times as large"
    return None


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """Everything that has a type, in whichever order: only the product counts."""
    waiting = [part]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "type" in value:
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _of_replace(one: dict[str, Any]) -> int:
    """Characters for each that is replaced; what may find an empty text puts its content beside each character."""
    content, pattern = one.get("content"), one.get("pattern")
    put_in = len(content) if isinstance(content, str) else 0
    said = pattern if isinstance(pattern, dict) else {}
    literal, regex = said.get("String"), said.get("Regex")
    if isinstance(literal, str) and literal:
        return max(-(-put_in // len(literal)), 1)
    if isinstance(regex, str) and _SURE.match(regex):
        return max(put_in, 1)
    return 1 + put_in


def _longest_replacement(one: dict[str, Any]) -> int:
    """Of a table as sentencepiece writes it: the size of its index in four bytes, the index, texts that end in NUL."""
    said = one.get("precompiled_charsmap")
    try:
        table = base64.b64decode(said, validate=True) if isinstance(said, str) else b""
    except (binascii.Error, ValueError):
        return 0  # the library will not read it either
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max(map(len, texts.split(b"\0")))


def _sequences(template: Any) -> int:
    """How often a template writes what it is given."""
    return sum(isinstance(one, dict) and "Sequence" in one for one in template) if isinstance(template, list) else 0
