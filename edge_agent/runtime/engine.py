"""Answers questions from one open bundle: question -> token ids -> prefill -> steps -> text.

Knows nothing of MQTT, queues or deadlines: whoever serves says through `should_stop` that an answer is no longer
wanted. One thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

import numpy as np

from edge_agent.bundle import Bundle, open_bundle
from edge_agent.errors import BundleError, InputError, RequestError, RuntimeUnavailable
from edge_agent.manifest import Graph, Manifest
from edge_agent.runtime.batch import Batch, Generated
from edge_agent.runtime.cuda_decoder import CudaDecoder
from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.generation import Generation
from edge_agent.runtime.prefix_cache import PrefixCache
from edge_agent.runtime.row_decoder import RowDecoder
from edge_agent.runtime.run_cost import RunCost
from edge_agent.runtime.sampling import Logits, chooser
from edge_agent.runtime.step_cost import StepCost, measure_steps, probe_step
from edge_agent.runtime.stop_text import StopText
from edge_agent.tokenizer import TextStream, Tokenizer, open_tokenizer
from hub import wire

_MOST_CHARS_PER_TOKEN: Final = 64  # no text has so few tokens for its length but by white space
DEFAULT_CONTEXT: Final = 4096


class TextPieces:
    """The text of one answer as it comes, up to the first of `stops`; `on_text` is called with each new piece."""

    def __init__(self, stream: TextStream, stops: Sequence[str], on_text: Callable[[str], None] | None) -> None:
        self._stream = stream
        self._stop = StopText(stops)
        self._on_text = on_text
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._pieces)

    def push(self, token_id: int) -> bool:
        """The next token; True if the answer ends with it."""
        self._give(self._stop.push(self._stream.push(token_id)))
        return self._stop.found

    def finish(self, *, cut: bool) -> None:
        """Give out what was held back; where the answer was `cut` by its limit, no half character."""
        self._give(self._stop.push(self._stream.finish(cut=cut)) + self._stop.finish())

    def _give(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            if self._on_text is not None:
                self._on_text(piece)


class Writing:
    """The ticket of one question: its tokens, and its text if that is wanted as it comes."""

    def __init__(self, answer: Generated, pieces: TextPieces | None, begun_at: float) -> None:
        self.answer = answer
        self.pieces = pieces
        self.begun_at = begun_at


class Engine:
    """An open bundle that answers; satisfies `Answerer`. Made by `open_engine`."""

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer, decoder: RowDecoder, *, prefix_bytes: int = 0) -> None:
        self.bundle = bundle
        self.tokenizer = tokenizer
        self.decoder = decoder
        self._stop_ids = frozenset(bundle.manifest.generation.stop_ids)
        measured = bundle.manifest.measured
        seed = StepCost(
            fixed_ms=measured.fixed_ms,
            prefill_ms_per_token=measured.prefill_ms_per_token,
            decode_ms_per_token=measured.decode_ms_per_token,
        )
        self._batch = Batch(decoder, PrefixCache(prefix_bytes), RunCost(seed))
        self._writing: dict[Generated, Writing] = {}

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self.bundle.manifest

    @property
    def served(self) -> wire.ServedBundle:
        """What the hub is told: bundle, model, task, context and cost: that of `warm_up`, and of the runs since."""
        manifest, cost = self.manifest, self._batch.cost.now
        return wire.ServedBundle(
            bundle=manifest.bundle_id,
            version=manifest.version,
            model=manifest.model.name,
            task=manifest.task,
            context=self.decoder.context,
            fixed_ms=cost.fixed_ms,
            prefill_ms_per_token=cost.prefill_ms_per_token,
            decode_ms_per_token=cost.decode_ms_per_token,
            runtime=self.decoder.runtime,
        )

    @property
    def parallel(self) -> int:
        """How many questions are answered at once."""
        return self.decoder.rows

    def warm_up(self) -> None:
        """Measure here, with these threads, what the bundle measured elsewhere, in a second or two.

        A router that compares nodes by what their bundles once cost on another machine, or with other threads,
        prefers whoever has not answered yet. It also spares the first question the first run of every shape.
        Raises RequestError for a graph that gives no numbers.
        """
        self.priced(measure_steps(self.decoder))

    def priced(self, cost: StepCost) -> None:
        """What answers cost here was measured."""
        self._batch.cost = RunCost(cost)

    def tend(self) -> None:
        """Notice, in a few steps, a machine that has become slower or faster while nothing was asked."""
        if self._batch.idle:
            self._batch.cost.probed(probe_step(self.decoder))

    def begin(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Writing:
        """Take up a question, as `Answerer` says.

        Raises RequestError for what this bundle cannot take, ContextOverflow with the numbers if it is too long.
        """
        if question.task is not None and question.task != self.manifest.task:
            raise RequestError("unsupported", f"this bundle does {self.manifest.task}, not {question.task}")
        if question.context is not None:
            raise RequestError("invalid", "a text generator takes no context: put it into the question")
        begun_at = time.perf_counter()
        if question.size_chars > (most := _MOST_CHARS_PER_TOKEN * self.decoder.context):  # not worth tokenizing
            raise RequestError("too_large", f"{question.size_chars} characters, at most {most} are read: shorten it")
        ids = self.tokenizer.encode_question(question)
        if (most_id := max(ids)) >= self.decoder.vocabulary:  # a vocabulary with gaps hides it when it is opened
            raise RequestError(
                "internal",
                f"the bundle's tokenizer gives id {most_id}, its graph takes {self.decoder.vocabulary}: export again",
            )
        max_tokens = self._max_tokens(question, len(ids))
        self.decoder.cache.require(len(ids), max_tokens)
        stops = question.stop or ()
        pieces = TextPieces(self.tokenizer.stream(), stops, on_text) if stops or on_text is not None else None
        answer = Generated(
            ids,
            choose=self._chooser(question),
            max_tokens=max_tokens,
            stop_ids=self._stop_ids,
            should_stop=should_stop,
            on_token=_nobody_listens if pieces is None else pieces.push,
        )
        self._batch.add(answer)
        writing = Writing(answer, pieces, begun_at)
        self._writing[answer] = writing
        return writing

    def advance(self) -> list[tuple[Hashable, Generation | RequestError]]:
        """One run of the graph; what ended with it.

        `token_ids` and `tokens.completion` leave out the stop token; an answer of full length leaves out of its text
        a last character of which it holds only some bytes.
        """
        ended: list[tuple[Hashable, Generation | RequestError]] = []
        for answer in self._batch.advance():
            writing = self._writing.pop(answer)
            ended.append((writing, answer.error or self._generation(writing)))
        return ended

    def abandon(self) -> None:
        """Forget all that was begun."""
        self._batch.clear()
        self._writing.clear()

    def answer(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """Answer one question, and nothing beside it. Raises RequestError, as `begin` does."""
        writing = self.begin(question, should_stop=should_stop, on_text=on_text)
        while True:
            for ticket, outcome in self.advance():
                if ticket is writing:
                    if isinstance(outcome, RequestError):
                        raise outcome
                    return outcome

    def close(self) -> None:
        """Release the graph and its cache."""
        self.decoder.close()

    def _generation(self, writing: Writing) -> Generation:
        answer = writing.answer
        assert answer.finish is not None
        cut = answer.finish == "length"
        if writing.pieces is not None:
            if answer.finish != "cancelled":
                writing.pieces.finish(cut=cut)
            text = writing.pieces.text
        else:
            text = self.tokenizer.decode_cut(answer.tokens) if cut else self.tokenizer.decode(answer.tokens)
        first_at = answer.first_at or answer.ended_at
        return Generation(
            text=text,
            token_ids=tuple(answer.tokens),
            finish=answer.finish,
            tokens=wire.Tokens(prompt=len(answer.ids), cached=answer.cached, completion=len(answer.tokens)),
            prefill_ms=1e3 * (first_at - (answer.began_at or answer.ended_at)),
            decode_ms=1e3 * (answer.ended_at - first_at),
            compute_ms=1e3 * (time.perf_counter() - writing.begun_at),
        )

    def _max_tokens(self, question: wire.Question, prompt_tokens: int) -> int:
        """What was asked for, which must fit; else the bundle's default, cut to what the context leaves."""
        left = self.decoder.context - prompt_tokens
        return question.max_tokens or max(1, min(self.manifest.generation.max_tokens, left))

    def _chooser(self, question: wire.Question) -> Callable[[Logits], int]:
        defaults = self.manifest.generation
        return chooser(
            defaults.temperature if question.temperature is None else question.temperature,
            defaults.top_p if question.top_p is None else question.top_p,
            np.random.default_rng(question.seed),  # without a seed, from the system's entropy
        )


def open_engine(
    bundle: Path,
    *,
    context: int | None = None,
    threads: int | None = None,
    parallel: int = 1,
    prefix_bytes: int = 0,
) -> Engine:
    """Verify and load the bundle in the directory `bundle`; raises BundleError, and what `engine_of` raises."""
    return engine_of(
        open_bundle(bundle), context=context, threads=threads, parallel=parallel, prefix_bytes=prefix_bytes
    )


def engine_of(
    opened: Bundle,
    *,
    context: int | None = None,
    threads: int | None = None,
    parallel: int = 1,
    prefix_bytes: int = 0,
    runtime: Literal["cpu", "cuda"] = "cpu",
) -> Engine:
    """The engine of a bundle that is verified already, on ONNX Runtime.

    `cuda` writes one answer at a time, whatever `parallel` says, and keeps nothing of what was seen.
    `context` is the most positions of prompt and answer together (default: the model's, at most 4,096), `threads`
    work on one operator (default: one for each physical core), `parallel` answers are written at once, and
    `prefix_bytes` of keys and values of what was seen are kept. Raises BundleError,
    RuntimeUnavailable where the bundle cannot run here, InputError for a context that the model does not have.
    """
    graph = decoder_graph(opened)
    path, context = opened.file(graph.path), served_context(opened.manifest, context)
    decoder: RowDecoder
    with ThreadPoolExecutor(1) as beside:  # a vocabulary takes as long to read as a small graph
        tokenizer = beside.submit(open_tokenizer, opened)
        if runtime == "cuda":
            decoder = CudaDecoder(path, graph, context=context)
        else:
            decoder = Decoder(path, graph, context=context, threads=threads, rows=parallel)
    return _fitting(opened, tokenizer.result(), decoder, prefix_bytes)


def served_context(manifest: Manifest, context: int | None) -> int:
    """How many positions are served; raises InputError for more than the model has."""
    longest = manifest.model.context_length
    if context is not None and not 1 < context <= longest:
        raise InputError(f"a context of {context} does not fit {manifest.model.name}: choose 2 to {longest}")
    return context or min(longest, DEFAULT_CONTEXT)


def engine_with(opened: Bundle, decoder: RowDecoder) -> Engine:
    """The engine of a bundle around an open decoder. Raises BundleError where its tokenizer does not fit."""
    return _fitting(opened, open_tokenizer(opened), decoder, prefix_bytes=0)


def _fitting(opened: Bundle, tokenizer: Tokenizer, decoder: RowDecoder, prefix_bytes: int) -> Engine:
    if tokenizer.size > decoder.vocabulary:
        raise BundleError(
            f"{opened.path}: the tokenizer has ids up to {tokenizer.size - 1}, the graph takes {decoder.vocabulary}"
        )
    return Engine(opened, tokenizer, decoder, prefix_bytes=prefix_bytes)


def _nobody_listens(token_id: int) -> bool:
    return False


def decoder_graph(bundle: Bundle) -> Graph:
    """The graph of a bundle that writes text. Raises what `served_graph` raises, and RuntimeUnavailable for others."""
    if bundle.manifest.encoder is not None:
        raise RuntimeUnavailable(
            f"{bundle.path}: a bundle for {bundle.manifest.task} writes no text: one for text-generation is needed"
        )
    return served_graph(bundle)


def served_graph(bundle: Bundle) -> Graph:
    """The graph that ONNX Runtime serves. Raises RuntimeUnavailable where the bundle has none of dialect `ort`."""
    graphs = [graph for graph in bundle.manifest.graphs if graph.dialect == "ort"]
    if not graphs:
        raise RuntimeUnavailable(f"{bundle.path}: no graph of dialect 'ort', which this runtime needs")
    return graphs[0]
