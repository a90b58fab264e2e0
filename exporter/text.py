"""Which text is a model calibrated on, and which is it judged on? Never the same.

Rows of JSONL files, or text drawn from the reference model itself, whose next token it then has to foresee. Either way
lists of token rows. Does not know how they are scored, nor rows with questions or labels (`graded.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from exporter.errors import CalibrationError

SCORED_TOKENS: Final = 4096  # at least 4,000 for a bound of about half a point
CALIBRATION_TOKENS: Final = 2048
_ROW_TOKENS: Final = 128  # of a sampled row
_MAX_TOKENS: Final = 8192  # more text than this costs minutes and moves the bound by little
_MAX_READ_TOKENS: Final = 65_536  # of a file
_SHARED_RUN: Final = 16  # tokens in a row that two texts share only if one was made from the other
_MAX_LINE_BYTES: Final = 10_000_000


class Text(msgspec.Struct, frozen=True):
    """Token rows, each scored on its own (all tokens but the row's first), and where they come from."""

    rows: tuple[tuple[int, ...], ...]
    origin: str

    @property
    def scored_tokens(self) -> int:
        """How many tokens will be scored."""
        return sum(len(row) - 1 for row in self.rows)

    def first(self, tokens: int) -> Text:
        """The first rows, until they hold `tokens` to score or there are no more."""
        rows: list[tuple[int, ...]] = []
        for row in self.rows:
            if sum(len(one) - 1 for one in rows) >= tokens:
                break
            rows.append(row)
        return Text(tuple(rows), self.origin)


class Texts(msgspec.Struct, frozen=True):
    """What passes learn from, and what candidates are judged on; no row is in both."""

    calibration: Text
    evaluation: Text


def rows_from_file(path: Path, tokenizer: Any, *, without: Sequence[str] = ()) -> Text:
    """Rows of a JSON Lines file, each an object with a string "text", but for those that hold one of `without`; at most
    about 65,536 tokens of it.

    Raises CalibrationError if the file cannot be read, is empty, or a line is something else.
    """
    rows: list[tuple[int, ...]] = []
    tokens = 0
    digest = hashlib.sha256()
    for number, line in json_lines(path):
        digest.update(line)
        text = text_of(path, number, line)
        row = tuple(tokenizer.encode(text, add_special_tokens=False))
        if len(row) > 1 and not any(question in text for question in without):
            rows.append(row)
            tokens += len(row)
        if tokens >= _MAX_READ_TOKENS:
            break
    if not rows:
        raise CalibrationError(f'{path} holds no text: rows like {{"text": "..."}} are needed, one a line')
    return Text(tuple(rows), f"{path.name} sha256:{digest.hexdigest()[:12]}")


def text_rows(path: Path) -> list[str]:
    """The texts of a JSON Lines file, as they are. Raises CalibrationError as `rows_from_file` does."""
    rows = [text_of(path, number, line) for number, line in json_lines(path)]
    rows = [text for text in rows if text.strip()]
    if not rows:
        raise CalibrationError(f'{path} holds no text: rows like {{"text": "..."}} are needed, one a line')
    return rows


def judged(text: Text, path: Path) -> Text:
    """`text` cut to what is scored. Raises CalibrationError where that is too little for a verdict."""
    if text.scored_tokens < SCORED_TOKENS:
        raise CalibrationError(
            f"{path}: its text gives {text.scored_tokens} tokens to score, at least {SCORED_TOKENS} are needed: "
            f'add rows like {{"text": "..."}}, or leave the option out'
        )
    cut = text.first(_MAX_TOKENS)
    over = cut.scored_tokens - _MAX_TOKENS
    rows = cut.rows if over <= 0 else (*cut.rows[:-1], cut.rows[-1][: len(cut.rows[-1]) - over])
    return Text(rows, text.origin)


def halves(text: Text, path: Path) -> tuple[Text, Text]:
    """One file for both: rows in turn to (calibration, evaluation), equal rows on one side only.

    Raises CalibrationError for a single row, which cannot be both.
    """
    rows = list(dict.fromkeys(text.rows))
    if len(rows) < 2:
        raise CalibrationError(
            f"{path} has {len(rows)} row of text: at least 2 are needed, since what calibrates must not judge: "
            "split it into rows, or give --eval too"
        )
    return Text(tuple(rows[1::2]), text.origin), Text(tuple(rows[0::2]), text.origin)


def apart(calibration: Text, evaluation: Text, path: Path) -> Text:
    """Calibration without the rows that share 16 tokens in a row with what judges, or all of theirs where they are
    shorter. Raises CalibrationError if nothing is left.
    """

    def length(row: tuple[int, ...]) -> int:
        return min(len(row), _SHARED_RUN)

    judging = {one: set(_runs(evaluation.rows, one)) for one in {length(row) for row in calibration.rows}}
    rows = tuple(row for row in calibration.rows if judging[length(row)].isdisjoint(_runs([row], length(row))))
    if not rows:
        raise CalibrationError(f"{path}: every row of it is in the evaluation text too: give text of its own")
    return Text(rows, calibration.origin)


def _runs(rows: Sequence[tuple[int, ...]], length: int) -> Iterator[tuple[int, ...]]:
    """Every `length` tokens in a row."""
    for row in rows:
        for start in range(len(row) - length + 1):
            yield row[start : start + length]


def texts_from_model(model: Any, tokenizer: Any, *, seed: int) -> Texts:
    """Both, sampled from `model` at temperature 1, in one batch with a cache; the same seed gives the same rows."""
    context = int(model.config.max_position_embeddings)
    per_row = min(_ROW_TOKENS, context - 1)
    judging = -(-SCORED_TOKENS // per_row)
    learning = -(-CALIBRATION_TOKENS // per_row)
    rows = _sampled(model, tokenizer, judging + learning, per_row, seed)
    origin = f"sampled from the reference, seed {seed}"
    known = set(rows[:judging])
    calibration = tuple(row for row in rows[judging:] if row not in known)
    return Texts(Text(calibration, origin), Text(tuple(rows[:judging]), origin))


def _sampled(model: Any, tokenizer: Any, count: int, per_row: int, seed: int) -> list[tuple[int, ...]]:
    import torch
    from transformers import DynamicCache

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
            # One number a row, where multinomial draws one for each token of the vocabulary.
            reached = torch.softmax(logits[:, -1].double(), dim=-1).cumsum(-1)
            drawn = torch.rand((count, 1), generator=draw, dtype=torch.double) * reached[:, -1:]
            rows.append(torch.searchsorted(reached, drawn, right=True).clamp(max=vocabulary - 1))
    return [tuple(row) for row in torch.cat(rows, dim=1).tolist()]


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line that is not blank. Raises CalibrationError for what cannot be read."""
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


def text_of(path: Path, number: int, line: bytes) -> str:
    """The string "text" of a row. Raises CalibrationError."""
    row = row_of(line)
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise CalibrationError(
            f'{path}: line {number} is not a JSON object with a string "text": one {{"text": "..."}} a line is needed'
        )
    return text


def row_of(line: bytes) -> Any:
    """What the line holds as JSON; None where it is none, or holds half a character that no tokenizer takes."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return None
    return row
