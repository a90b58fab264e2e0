"""Which text is a model judged on?

Rows of a JSONL file, or text drawn from the reference model itself, whose next token it then has to foresee. Either way
a list of token rows. Does not know how they are scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from exporter.errors import CalibrationError

SCORED_TOKENS: Final = 4096  # at least 4,000 for a bound of about half a point
_ROWS: Final = 32
_MAX_TOKENS: Final = 16_384  # more text than this costs minutes and moves the bound by little
_MAX_LINE_BYTES: Final = 10_000_000


class Text(msgspec.Struct, frozen=True):
    """Token rows, each scored on its own (all tokens but the row's first), and where they come from."""

    rows: tuple[tuple[int, ...], ...]
    origin: str

    @property
    def scored_tokens(self) -> int:
        """How many tokens will be scored."""
        return sum(len(row) - 1 for row in self.rows)


def text_from_file(path: Path, tokenizer: Any) -> Text:
    """Rows of a JSON Lines file, each an object with a string "text".

    Raises CalibrationError if the file cannot be read, a line is something else, or there is too little text.
    """
    rows: list[tuple[int, ...]] = []
    digest = hashlib.sha256()
    tokens = 0
    for number, line in _lines(path):
        digest.update(line)
        row = tuple(tokenizer.encode(_text_of(path, number, line), add_special_tokens=False))
        if len(row) > 1 and tokens < _MAX_TOKENS:
            rows.append(row[: _MAX_TOKENS - tokens + 1])
            tokens += len(rows[-1]) - 1
    if tokens < SCORED_TOKENS:
        raise CalibrationError(
            f"{path}: its text gives {tokens} tokens to score, at least {SCORED_TOKENS} are needed: "
            f'add rows like {{"text": "..."}}, or leave --calibration out'
        )
    return Text(tuple(rows), f"{path.name} sha256:{digest.hexdigest()[:12]}")


def text_from_model(model: Any, tokenizer: Any, *, seed: int) -> Text:
    """Sample rows from `model` at temperature 1, in one batch with a cache; the same seed gives the same rows."""
    import torch
    from transformers import DynamicCache

    context = int(model.config.max_position_embeddings)
    per_row = min(SCORED_TOKENS // _ROWS, context - 1)
    count = -(-SCORED_TOKENS // per_row)
    draw = torch.Generator().manual_seed(seed)
    start = tokenizer.bos_token_id
    vocabulary = int(model.config.vocab_size)
    first = (
        torch.full((count, 1), start) if start is not None else torch.randint(0, vocabulary, (count, 1), generator=draw)
    )
    cache = DynamicCache(config=model.config)
    rows = [first]
    with torch.inference_mode():
        for _ in range(per_row):
            logits = model(input_ids=rows[-1], past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            weights = torch.softmax(logits[:, -1].float(), dim=-1)
            rows.append(torch.multinomial(weights, 1, generator=draw))
    sampled = torch.cat(rows, dim=1).tolist()
    return Text(tuple(tuple(row) for row in sampled), f"sampled from the reference, seed {seed}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > _MAX_LINE_BYTES:
                    raise CalibrationError(f"{path}: line {number} is longer than {_MAX_LINE_BYTES} bytes")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror or error}") from None


def _text_of(path: Path, number: int, line: bytes) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise CalibrationError(
            f'{path}: line {number} is not a JSON object with a string "text": one {{"text": "..."}} a line is needed'
        )
    return text
