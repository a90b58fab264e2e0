"""Gives a task's own results from one open encoder bundle: labels, spans of text, the best answer, vectors.

Knows nothing of MQTT, queues or deadlines. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.bundle import Bundle, open_bundle
from edge_agent.errors import BundleError, RequestError, RuntimeUnavailable
from edge_agent.manifest import EncoderInfo, Manifest
from edge_agent.runtime.encoder import Encoder, Numbers
from edge_agent.runtime.encoding import Row, TextEncoder
from edge_agent.runtime.engine import served_graph

OUTSIDE: Final = "O"  # the label of a token that belongs to no span
MAX_ANSWER_TOKENS: Final = 30
_TASK_OUTPUTS: Final = {
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "feature-extraction": ("embedding",),
}


class LabelScore(msgspec.Struct, frozen=True):
    """A class, and its probability."""

    label: str
    score: float


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Characters `start` to `end` of the text, what they are, and the mean probability of its tokens."""

    label: str
    start: int
    end: int
    text: str
    score: float


class BestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The characters of the text that answer the question best, and their probability among all spans of a window."""

    start: int
    end: int
    text: str
    score: float


class EncoderEngine:
    """An open encoder bundle. Made by `open_encoder`; each method belongs to one task and raises RequestError for a
    bundle of another one, and for a text without tokens.
    """

    def __init__(self, bundle: Bundle, encoder: Encoder, text: TextEncoder, info: EncoderInfo) -> None:
        self._bundle = bundle
        self.encoder = encoder
        self.text = text
        self.info = info

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self._bundle.manifest

    def classify(self, text: str) -> tuple[LabelScore, ...]:
        """All labels, the most likely first; of a text that is too long, its first `max_tokens` decide."""
        self._require("text-classification")
        scores = softmax(self._first_output(self.text.encode(text)))
        order = np.argsort(-scores, kind="stable")
        return tuple(LabelScore(self.info.labels[i], float(scores[i])) for i in order)

    def spans(self, text: str) -> tuple[Span, ...]:
        """The labelled spans in the first `max_tokens` of `text`, in its order."""
        self._require("token-classification")
        row = self.text.encode(text)
        return tuple(merge(text, row, softmax(self._first_output(row)), self.info.labels))

    def answer(self, question: str, text: str, should_stop: Callable[[], bool] = lambda: False) -> BestAnswer | None:
        """The span of `text` that answers `question` best; a long text is read in windows. None if `should_stop` said
        so between two of them.
        """
        self._require("question-answering")
        rows = self.text.encode_pair(question, text)
        outputs = []
        for row in rows:
            if should_stop():
                return None
            outputs.append(self.encoder.run([row.ids], [row.types]))
        return best_answer(text, rows, [(one["start_logits"][0], one["end_logits"][0]) for one in outputs])

    def embed(self, texts: Sequence[str]) -> Numbers:
        """Vectors (len(texts), width), pooled and normalized as the manifest says; of the first `max_tokens` of each.

        Each text runs alone: dynamic int8 scales a whole batch at once, and a text must not depend on its neighbours.
        """
        self._require("feature-extraction")
        return np.stack([self._first_output(self.text.encode(text)) for text in texts])

    def sample(self, text: str) -> Numbers:
        """What a manifest keeps of a text: the values of the first output, flattened, for the text alone."""
        return self._first_output(self.text.encode(text)).reshape(-1)

    def close(self) -> None:
        """Release the graph."""
        self.encoder.close()

    def _first_output(self, row: Row) -> Numbers:
        output: Numbers = self.encoder.run([row.ids], [row.types])[self.encoder.outputs[0]][0]
        return output

    def _require(self, task: str) -> None:
        if self.manifest.task != task:
            raise RequestError("unsupported", f"this bundle does {self.manifest.task}, not {task}")


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities along the last axis.

    >>> softmax(np.zeros((2, 4), np.float32))[0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    probabilities: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return probabilities


def merge(text: str, row: Row, scores: NDArray[np.float64], labels: Sequence[str]) -> Iterator[Span]:
    """Neighbouring tokens of one label as spans of characters; `scores` are (tokens, labels).

    Labels may carry the prefixes B- (a span begins) and I- (it goes on), of Ramshaw and Marcus, Text Chunking using
    Transformation-Based Learning, 1995. Inside a word B- begins nothing.
    """
    current: list[int] = []
    kind = OUTSIDE
    for token, choice in enumerate(scores.argmax(axis=-1)):
        if row.texts[token] is None:
            continue
        prefix, _, name = (
            labels[choice].rpartition("-") if labels[choice][:2] in ("B-", "I-") else ("", "", labels[choice])
        )
        same_word = bool(current) and row.words[token] is not None and row.words[token] == row.words[current[-1]]
        if current and (name != kind or (prefix == "B" and not same_word)):
            yield _span(text, row, scores, current, kind)
            current = []
        if name != OUTSIDE:
            current.append(token)
        kind = name
    if current:
        yield _span(text, row, scores, current, kind)


def _span(text: str, row: Row, scores: NDArray[np.float64], tokens: Sequence[int], kind: str) -> Span:
    start, end = _trimmed(text, row.offsets[tokens[0]][0], row.offsets[tokens[-1]][1])
    score = float(np.mean([scores[token].max() for token in tokens]))
    return Span(label=kind, start=start, end=end, text=text[start:end], score=score)


def best_answer(text: str, rows: Sequence[Row], logits: Sequence[tuple[Numbers, Numbers]]) -> BestAnswer:
    """The best of all windows' spans: `rows` are the windows of `text`, `logits` each one's (starts, ends)."""
    found = [best_span(text, row, starts, ends) for row, (starts, ends) in zip(rows, logits, strict=True)]
    return max(found, key=lambda one: one[0])[1]


def best_span(text: str, row: Row, starts: Numbers, ends: Numbers) -> tuple[float, BestAnswer]:
    """(start logit + end logit, answer) of the likeliest span of at most MAX_ANSWER_TOKENS in the second text.

    Probabilities of a beginning and an end are taken as independent (Devlin et al., BERT, 2019, section 4.2).
    """
    inside = np.array([which == 1 for which in row.texts])
    start_scores = np.where(inside, starts, -np.inf)
    end_scores = np.where(inside, ends, -np.inf)
    sums = start_scores[:, np.newaxis] + end_scores[np.newaxis]
    length = np.arange(len(row.ids))[np.newaxis] - np.arange(len(row.ids))[:, np.newaxis]
    sums[(length < 0) | (length >= MAX_ANSWER_TOKENS)] = -np.inf
    first, last = np.unravel_index(int(sums.argmax()), sums.shape)
    start, end = _trimmed(text, row.offsets[first][0], row.offsets[last][1])
    score = float(softmax(starts)[first] * softmax(ends)[last])
    return float(sums[first, last]), BestAnswer(start=start, end=end, text=text[start:end], score=score)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the white space at either end, which some tokenizers count to their tokens."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def open_encoder(bundle: Path, *, threads: int | None = None) -> EncoderEngine:
    """Verify and load the encoder bundle in the directory `bundle`.

    Raises BundleError, RuntimeUnavailable where it cannot run here or is no encoder's.
    """
    return encoder_engine(open_bundle(bundle), threads=threads)


def encoder_engine(
    opened: Bundle, *, threads: int | None = None, runtime: Literal["cpu", "cuda"] = "cpu"
) -> EncoderEngine:
    """The engine of a bundle that is verified already; raises like `open_encoder`."""
    manifest = opened.manifest
    info = manifest.encoder
    if info is None or manifest.task not in _TASK_OUTPUTS:
        raise RuntimeUnavailable(f"{opened.path}: a bundle for {manifest.task} is not an encoder's")
    graph = served_graph(opened)
    if graph.outputs != _TASK_OUTPUTS[manifest.task]:
        raise BundleError(f"{opened.path}: a graph that gives {', '.join(graph.outputs)} does not do {manifest.task}")
    text = TextEncoder(opened.file(manifest.tokenizer.path), info.max_tokens)
    encoder = Encoder(opened.file(graph.path), graph, threads=threads, runtime=runtime)
    engine = EncoderEngine(opened, encoder, text, info)
    _try(engine)
    return engine


def _try(engine: EncoderEngine) -> None:
    """One run over the highest token id, so that what does not fit together is refused when it is opened."""
    where, info = engine._bundle.path, engine.info
    try:
        values = engine.encoder.run([[engine.text.size - 1, 0]])[engine.encoder.outputs[0]]
    except Exception as error:  # ONNX Runtime raises some ten unrelated classes
        raise BundleError(
            f"{where}: the graph does not take the tokenizer's ids: {' '.join(str(error).split())[:200]}"
        ) from None
    if not np.isfinite(values).all():
        raise BundleError(f"{where}: the graph gives numbers that are not finite")
    if engine.encoder.is_per_token != (engine.manifest.task in ("token-classification", "question-answering")):
        raise BundleError(f"{where}: a graph with outputs {values.shape[1:]} a text does not do {engine.manifest.task}")
    if "logits" in engine.encoder.outputs and values.shape[-1] != len(info.labels):
        raise BundleError(f"{where}: the graph gives {values.shape[-1]} scores for {len(info.labels)} labels")
