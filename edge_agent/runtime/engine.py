"""Answers questions from one open bundle: question -> token ids -> prefill -> steps -> text.

Knows nothing of MQTT, queues or deadlines: whoever serves says through `should_stop` that an answer is no longer
wanted. One thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import numpy as np

from edge_agent.bundle import Bundle, open_bundle
from edge_agent.errors import BundleError, InputError, RequestError, RuntimeUnavailable
from edge_agent.manifest import Graph, Manifest
from edge_agent.onnx_file import read_onnx
from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.generation import Generation
from edge_agent.runtime.sampling import Logits, chooser
from edge_agent.runtime.step_cost import StepCost, measure_steps
from edge_agent.tokenizer import Tokenizer, open_tokenizer
from hub import wire

DEFAULT_CONTEXT: Final = 4096


class Engine:
    """An open bundle that answers; satisfies `Answerer`. Made by `open_engine`."""

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer, decoder: Decoder) -> None:
        self._bundle = bundle
        self.tokenizer = tokenizer
        self.decoder = decoder
        self._stop_ids = frozenset(bundle.manifest.generation.stop_ids)
        measured = bundle.manifest.measured
        self._cost = StepCost(
            fixed_ms=measured.fixed_ms,
            prefill_ms_per_token=measured.prefill_ms_per_token,
            decode_ms_per_token=measured.decode_ms_per_token,
        )

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self._bundle.manifest

    @property
    def served(self) -> wire.ServedBundle:
        """What the hub is told: bundle, model, task, context and cost, as measured when made or by `warm_up`."""
        manifest = self.manifest
        return wire.ServedBundle(
            bundle=manifest.bundle_id,
            model=manifest.model.name,
            task=manifest.task,
            context=self.decoder.context,
            fixed_ms=self._cost.fixed_ms,
            prefill_ms_per_token=self._cost.prefill_ms_per_token,
            decode_ms_per_token=self._cost.decode_ms_per_token,
            runtime="cpu",
        )

    def warm_up(self) -> None:
        """Measure here, with these threads, what the bundle measured elsewhere, in a second or two.

        A router that compares nodes by what their bundles once cost on another machine, or with other threads,
        prefers whoever has not answered yet. It also spares the first question the first run of every shape.
        Raises RequestError for a graph that gives no numbers.
        """
        self._cost = measure_steps(self.decoder)

    def answer(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """Answer one question, calling `on_text` with each new piece of text and `should_stop` between tokens.

        Raises RequestError for what this bundle cannot take, ContextOverflow with the numbers if it is too long.
        `token_ids` and `tokens.completion` leave out the stop token; an answer of full length leaves out of its text
        a last character of which it holds only some bytes.
        """
        started = time.perf_counter()
        if question.task is not None and question.task != self.manifest.task:
            raise RequestError("unsupported", f"this bundle does {self.manifest.task}, not {question.task}")
        prompt_ids = self.tokenizer.encode_question(question)
        max_tokens = self._max_tokens(question, len(prompt_ids))
        stream = self.tokenizer.stream()
        token_ids: list[int] = []
        finish: Literal["stop", "length", "cancelled"] = "cancelled"
        prefill_at, first_at = time.perf_counter(), None
        for token_id in self.decoder.generate(
            prompt_ids,
            choose=self._chooser(question),
            max_tokens=max_tokens,
            stop_ids=self._stop_ids,
            should_stop=should_stop,
        ):
            first_at = first_at or time.perf_counter()
            if token_id in self._stop_ids:
                finish = "stop"
                break
            token_ids.append(token_id)
            if on_text is not None and (piece := stream.push(token_id)):
                on_text(piece)
        if finish != "stop" and len(token_ids) == max_tokens:
            finish = "length"
        ended = time.perf_counter()
        cut = finish == "length"
        if on_text is not None and finish != "cancelled" and (piece := stream.finish(cut=cut)):
            on_text(piece)
        text = self.tokenizer.decode_cut(token_ids) if cut else self.tokenizer.decode(token_ids)
        return Generation(
            text=text,
            token_ids=tuple(token_ids),
            finish=finish,
            tokens=wire.Tokens(prompt=len(prompt_ids), completion=len(token_ids)),
            prefill_ms=1e3 * ((first_at or ended) - prefill_at),
            decode_ms=1e3 * (ended - (first_at or ended)),
            compute_ms=1e3 * (time.perf_counter() - started),
        )

    def close(self) -> None:
        """Release the graph and its cache."""
        self.decoder.close()

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


def open_engine(bundle: Path, *, context: int | None = None, threads: int | None = None) -> Engine:
    """Verify and load the bundle in the directory `bundle`.

    `context` is the most positions of prompt and answer together (default: the model's, at most 4,096), `threads`
    work on one operator (default: one for each physical core). Raises BundleError,
    RuntimeUnavailable where the bundle cannot run here, InputError for a context that the model does not have.
    """
    opened = open_bundle(bundle)
    manifest = opened.manifest
    graph = decoder_graph(opened)
    longest = manifest.model.context_length
    if context is not None and not 1 < context <= longest:
        raise InputError(f"a context of {context} does not fit {manifest.model.name}: choose 2 to {longest}")
    tokenizer = open_tokenizer(opened)
    decoder = Decoder(opened.file(graph.path), graph, context=context or min(longest, DEFAULT_CONTEXT), threads=threads)
    if tokenizer.size > decoder.vocabulary:
        raise BundleError(
            f"{opened.path}: the tokenizer has ids up to {tokenizer.size - 1}, the graph takes {decoder.vocabulary}"
        )
    return Engine(opened, tokenizer, decoder)


def decoder_graph(bundle: Bundle) -> Graph:
    """The graph of a bundle that writes text. Raises what `served_graph` raises, and RuntimeUnavailable for others."""
    if bundle.manifest.encoder is not None:
        raise RuntimeUnavailable(
            f"{bundle.path}: a bundle for {bundle.manifest.task} answers no questions in text: only bundles for "
            "text-generation are served; measure this one with edge-agent bench and edge-agent eval"
        )
    return served_graph(bundle)


def served_graph(bundle: Bundle) -> Graph:
    """The graph that ONNX Runtime serves, its external weights inside the bundle.

    ONNX Runtime 1.23 reads external data from wherever a graph says, so that is checked here. Raises
    RuntimeUnavailable where the bundle has no graph of dialect `ort`, BundleError for weights outside.
    """
    graphs = [graph for graph in bundle.manifest.graphs if graph.dialect == "ort"]
    if not graphs:
        raise RuntimeUnavailable(f"{bundle.path}: no graph of dialect 'ort', which this runtime needs")
    graph = graphs[0]
    listed = {entry.path for entry in bundle.manifest.files}
    folder = PurePosixPath(graph.path).parent
    for weight in read_onnx(bundle.file(graph.path)).weights:
        if weight.location is not None and str(folder / weight.location) not in listed:
            raise BundleError(
                f"{bundle.path}: {graph.path} keeps {weight.name!r} in {weight.location!r}, "
                "which is no file of the bundle"
            )
    return graph
