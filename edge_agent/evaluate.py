"""Is a bundle still truthful, on this very device? Scores text, and questions and texts whose answers are known.

The exporter's gate cuts text into the same windows, so its numbers and a device's can be compared. Knows nothing
of what is accurate enough.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edge_agent.errors import InputError
from edge_agent.runtime.encoder_engine import EncoderEngine
from edge_agent.runtime.generation import SingleAnswerer
from edge_agent.runtime.row_decoder import RowDecoder
from hub import wire

WINDOW_TOKENS: Final = 512
STRIDE_TOKENS: Final = 256
QA_MAX_TOKENS: Final = 64  # a short answer; a model that rambles is not waited for
_ROWS_AT_ONCE: Final = 64  # of a vocabulary in float64: bounds the memory of one log-softmax

RowT = TypeVar("RowT")


class Window(msgspec.Struct, frozen=True):
    """A stretch of text. Its tokens from `first_scored` on are scored here, those before are context."""

    ids: tuple[int, ...]
    first_scored: int


class TextScore(msgspec.Struct, frozen=True, kw_only=True):
    """`next_token_accuracy` in percent: how often the most likely token was the next one."""

    tokens: int
    next_token_accuracy: float
    perplexity: float


class QaRow(msgspec.Struct, frozen=True):
    """A question and the texts of which any one makes an answer right. `context` is the passage that an encoder finds
    the answer in.
    """

    question: Annotated[str, Meta(min_length=1)]
    answers: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]
    context: Annotated[str, Meta(min_length=1)] | None = None


class QaScore(msgspec.Struct, frozen=True, kw_only=True):
    """`accuracy` in percent."""

    questions: int
    correct: int
    accuracy: float


class LabelledRow(msgspec.Struct, frozen=True):
    """A text and its right label."""

    text: Annotated[str, Meta(min_length=1)]
    label: Annotated[str, Meta(min_length=1)]


class LabelledScore(msgspec.Struct, frozen=True, kw_only=True):
    """`accuracy` in percent."""

    texts: int
    correct: int
    accuracy: float


def windows(ids: Sequence[int], size: int = WINDOW_TOKENS, stride: int = STRIDE_TOKENS) -> Iterator[Window]:
    """Overlapping windows in which each token but the very first is scored exactly once.

    The first window scores all it can; each later one starts `stride` further on and scores what is new in it,
    with at least `size - stride` tokens of context.

    >>> [(window.ids, window.first_scored) for window in windows(range(7), size=4, stride=2)]
    [((0, 1, 2, 3), 1), ((2, 3, 4, 5), 2), ((4, 5, 6), 2)]
    """
    if not 0 < stride < size:
        raise ValueError(f"a stride of {stride} leaves no context in windows of {size}")
    scored = 1
    for start in range(0, len(ids), stride):
        if scored >= len(ids):
            return
        window = tuple(ids[start : start + size])
        yield Window(window, scored - start)
        scored = start + len(window)


def evaluate_text(
    decoder: RowDecoder, ids: Sequence[int], on_window: Callable[[int], None] = lambda tokens: None
) -> TextScore:
    """Score `ids`, calling `on_window` with the tokens scored after each window. Raises InputError under 2 ids."""
    if len(ids) < 2:
        raise InputError(f"a text of {len(ids)} tokens has no next token to score: give a longer one")
    size = min(WINDOW_TOKENS, decoder.context)
    correct, loss, tokens = 0, 0.0, 0
    for window in windows(ids, size, min(STRIDE_TOKENS, size - 1)):
        logits = decoder.logits(window.ids)[window.first_scored - 1 : -1]
        targets = np.asarray(window.ids[window.first_scored :])
        correct += int((logits.argmax(axis=1) == targets).sum())
        loss -= float(log_likelihood(logits, targets).sum())
        tokens += len(targets)
        on_window(len(targets))
    return TextScore(tokens=tokens, next_token_accuracy=100 * correct / tokens, perplexity=float(np.exp(loss / tokens)))


def log_likelihood(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Natural log of softmax(logits) at the targets: (n, vocabulary) and (n,) give (n,)."""
    result = np.empty(len(targets), np.float64)
    for start in range(0, len(targets), _ROWS_AT_ONCE):
        rows = logits[start : start + _ROWS_AT_ONCE].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        wanted = rows[np.arange(len(rows)), targets[start : start + _ROWS_AT_ONCE]]
        result[start : start + _ROWS_AT_ONCE] = wanted - np.log(np.exp(rows).sum(axis=1))
    return result


def evaluate_qa(
    answerer: SingleAnswerer, rows: Sequence[QaRow], on_row: Callable[[bool], None] = lambda right: None
) -> QaScore:
    """Ask each question, greedily and for at most QA_MAX_TOKENS. Raises RequestError for one that is not taken,
    InputError for rows with a context, or none.
    """
    if any(row.context is not None for row in rows):
        raise InputError(
            "a row has a context, which a text generator is not given: leave it out, or put it in the question"
        )

    def ask(row: QaRow) -> str:
        question = wire.Question(question=row.question, temperature=0.0, max_tokens=QA_MAX_TOKENS)
        return answerer.answer(question, should_stop=lambda: False).text or ""

    return _qa_score(rows, ask, on_row)


def evaluate_passages(
    engine: EncoderEngine, rows: Sequence[QaRow], on_row: Callable[[bool], None] = lambda right: None
) -> QaScore:
    """Find the answer to each question in its context. Raises RequestError for a bundle of another task or a text
    without tokens, InputError for a row without a context, or no row.
    """
    if any(row.context is None for row in rows):
        raise InputError(
            'a row has no context to find its answer in: rows are {"question", "context", "answers": [...]}'
        )

    def ask(row: QaRow) -> str:
        best = engine.answer(row.question, row.context or "")
        return "" if best is None else best.text

    return _qa_score(rows, ask, on_row)


def _qa_score(rows: Sequence[QaRow], ask: Callable[[QaRow], str], on_row: Callable[[bool], None]) -> QaScore:
    correct = 0
    for row in rows:
        right = is_right(ask(row), row.answers)
        correct += right
        on_row(right)
    if not rows:
        raise InputError("no questions: give a file with at least one row")
    return QaScore(questions=len(rows), correct=correct, accuracy=100 * correct / len(rows))


def evaluate_labelled(
    engine: EncoderEngine, rows: Iterable[LabelledRow], on_row: Callable[[bool], None] = lambda right: None
) -> LabelledScore:
    """Classify each text. Raises InputError for a label that the bundle does not have, before the first text, and
    RequestError for another task or a text without tokens.
    """
    listed = list(rows)
    if strange := sorted({row.label for row in listed} - set(engine.info.labels)) if engine.info.labels else []:
        raise InputError(f"the label {strange[0]!r} is none of the bundle's: {', '.join(engine.info.labels[:20])}")
    texts = correct = 0
    for row in listed:
        right = engine.classify(row.text)[0].label == row.label
        texts, correct = texts + 1, correct + right
        on_row(right)
    if not texts:
        raise InputError("no texts: give a file with at least one row")
    return LabelledScore(texts=texts, correct=correct, accuracy=100 * correct / texts)


def is_right(text: str, answers: Iterable[str]) -> bool:
    """Whether any answer occurs in `text`, ignoring case and accents.

    >>> is_right("It is SÃO TOMÉ.", ["Sao Tome"])
    True
    """
    folded = _fold(text)
    return any(_fold(answer) in folded for answer in answers)


def read_qa(path: Path) -> list[QaRow]:
    """The rows of a JSONL file. Raises InputError with the line."""
    return _read_rows(path, QaRow, '{"question", "answers": [...]}, for encoders with a "context"')


def read_labelled(path: Path) -> list[LabelledRow]:
    """The rows of a JSONL file. Raises InputError with the line."""
    return _read_rows(path, LabelledRow, '{"text", "label"}')


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises InputError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from None


def _read_rows(path: Path, kind: type[RowT], shape: str) -> list[RowT]:
    rows = []
    for number, line in enumerate(read_text(path).removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(msgspec.json.decode(line, type=kind))
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: {error}: a row is {shape}") from None
    return rows


def _fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold()
