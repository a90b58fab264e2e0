"""How is a text generator carried, judged and measured? The steps of the pipeline for decoders.

The torch model is needed until `release`; candidates are made from graphs on disk and run in ONNX Runtime, one at a
time, so that the memory of the two never adds up. Does not know in which order the steps come, nor who wins.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from edge_agent.bench import Cost, measure_decoder
from edge_agent.evaluate import WINDOW_TOKENS
from edge_agent.manifest import Accuracy, Pass, Sample
from exporter.candidate import ANSWER_NEW_TOKENS, ANSWER_PROMPT_TOKENS, Built
from exporter.codes import Coder
from exporter.decoder_texts import given_texts
from exporter.errors import CalibrationError, OrderError
from exporter.graded import Graded
from exporter.interval import interval_of_counts
from exporter.order import Order
from exporter.recipes import Recipe, no_source, recipes
from exporter.reference import Reference, record
from exporter.source import Source
from exporter.text import Text, Texts, texts_from_model

SAMPLE_TOKENS: Final = 16
ENGINE_BLOCK: Final = 64  # of int4 weights in an engine's graph: most hidden sizes are multiples of it, not all of 128
SAMPLE_PROMPTS: Final = (
    "What is the capital of France?",
    "Name three colours.",
    "What is two plus two?",
    "Write one sentence about the sea.",
    "Translate 'good morning' to Spanish.",
    "Why is the sky blue?",
    "Give me a word that rhymes with cat.",
    "Who wrote Hamlet?",
)
Tell = Callable[[str, float], None]  # what is being done, and how far it is (0 to 1)


class Generation:
    """One export of a decoder. `source` is opened, `staging` a directory to work in."""

    def __init__(self, order: Order, source: Source, staging: Path, tell: Tell) -> None:
        self._order, self._source, self._staging, self._tell = order, source, staging, tell
        self._graded: Graded | None = None
        self._texts = self._read_texts()
        trim_memory()
        self._reference = self._recorded()
        self._right: list[bool] = []
        self._known_right: dict[Path, list[bool]] = {}
        self._coder_of: Coder | None = None  # holds matrices and codes while candidates are made

    @property
    def calibration(self) -> Text:
        """What passes learn from; never what judges."""
        return self._texts.calibration

    @property
    def model(self) -> Any:
        """The torch model, which passes change in place; gone after `release`."""
        return self._source.model

    def convert(self, name: str, passes: Sequence[Pass]) -> Built:
        """The fp32 graph of the torch model as it is now."""
        from exporter.convert import OPSET, convert, describe
        from exporter.graph_file import write_graph
        from exporter.parity import check_parity

        self._tell(f"converting {name} to ONNX", 0)
        context = self._source.info.context_length
        graph_model = convert(self._source.model, context)
        graph = describe(graph_model)
        directory = self._staging / name
        path = directory / graph.path
        path.parent.mkdir(parents=True)
        weights_bytes = write_graph(graph_model, path)
        del graph_model
        trim_memory()  # tracing leaves much behind, and the parity check needs room beside the model
        difference = check_parity(self._source.model, path, graph)
        made = Pass(
            name="convert",
            parameters={"dialect": "ort", "opset": OPSET, "context": context, "parity": float(f"{difference:.2g}")},
        )
        built = Built(
            name=name,
            precision="fp32",
            directory=directory,
            graph=graph,
            weights_bytes=weights_bytes,
            tensors=dict.fromkeys(("embedding", "head", "linear", "norm", "cache"), "fp32"),
            passes=(*passes, made),
            zeros=next((one.parameters["zeros"] for one in reversed(passes) if "zeros" in one.parameters), None),
        )
        if self._graded is not None and not self._right:
            self._right = self._answers_right(built)  # the untouched graph is the yardstick
            if not any(self._right):
                raise CalibrationError(
                    f"{self._order.evaluation}: the untouched model answers none of its {len(self._right)} questions "
                    "right, so there is nothing to lose: ask what it knows"
                )
        return built

    def convert_for_engine(self, dialect: Literal["onnx", "plain"], context: int, passes: Sequence[Pass]) -> Built:
        """The fp16 graph of the torch model in a dialect that TensorRT parses, for `context` positions, and for those
        that it is scored on.
        """
        from exporter.convert import convert, describe
        from exporter.graph_file import write_graph

        self._tell(f"converting to dialect {dialect}", 0)
        scored = min(WINDOW_TOKENS, max(map(len, self._texts.evaluation.rows)))
        graph_model = convert(self._source.model, max(context, scored), dialect, half=True)
        graph = describe(graph_model, dialect)
        directory = self._staging / f"engine-{dialect}"
        path = directory / graph.path
        path.parent.mkdir(parents=True)
        weights_bytes = write_graph(graph_model, path)
        return Built(
            name="fp16",
            precision="fp16",
            directory=directory,
            graph=graph,
            weights_bytes=weights_bytes,
            tensors={},
            passes=tuple(passes),
        )

    def quantized_for_engine(self, half: Built, precision: str) -> Built:
        """The fp16 graph with weights of `precision` as QuantizeLinear pairs."""
        import onnx_ir as ir

        from exporter.graph_file import write_graph
        from exporter.qdq import quantize_qdq

        self._tell(f"quantizing the engine's graph to {precision}", 0)
        graph_model = ir.load(half.path)
        if precision == "int4":
            quantize_qdq(graph_model, 4, ENGINE_BLOCK)
        else:
            quantize_qdq(graph_model, 8)
        directory = half.directory.with_name(f"{half.directory.name}-{precision}")
        path = directory / half.graph.path
        path.parent.mkdir(parents=True)
        weights_bytes = write_graph(graph_model, path)
        return msgspec.structs.replace(
            half, name=precision, precision=precision, directory=directory, weights_bytes=weights_bytes
        )

    def verify_surrogate(self, built: Built) -> Accuracy:
        """How truthful a graph of another dialect is, in ONNX Runtime."""
        from exporter.surrogate import SurrogateDecoder
        from exporter.verify import score

        decoder = SurrogateDecoder(built.path, built.graph, context=WINDOW_TOKENS)
        try:
            return score(
                decoder.logits, self._reference,
                budget_points=self._order.max_accuracy_drop_points,
                on_progress=self._scoring(f"verifying the engine's graph in {built.precision}"),
            )  # fmt: skip
        finally:
            decoder.close()

    def release(self) -> None:
        """Let go of the torch model; its memory is the candidates' from here on."""
        self._source = msgspec.structs.replace(self._source, model=None)
        trim_memory()

    def candidates(self, precisions: tuple[str, ...], base: Built) -> list[Built]:
        """The graphs that this order asks for on a device that runs `precisions`, smallest first, from `base`."""
        on_grid = self._order.precision not in ("fp32", "fp16") and self._coder(base).on_grid
        if self._order.quantizer == "source" and not on_grid:
            raise OrderError(no_source(self._source.info.name, self._order.block_size))
        built = [self._build(recipe, base) for recipe in recipes(self._order, precisions, on_grid=on_grid)]
        self._coder_of = None
        trim_memory()
        return built

    def verify(self, built: Built) -> Accuracy:
        """How truthful it is, in the runtime that will serve it."""
        from exporter.verify import verify

        accuracy = verify(
            self._reference, built.path, built.graph,
            budget_points=self._order.max_accuracy_drop_points, on_progress=self._scoring(f"verifying {built.name}"),
        )  # fmt: skip
        return accuracy if self._graded is None else self._with_answers(accuracy, self._answers_right(built))

    def measure(self, built: Built) -> Cost:
        """What an answer costs here, in a process of its own."""
        self._tell(f"measuring {built.name}", 0)
        trim_memory()  # the measuring process needs its own beside this one's
        context = self._source.info.context_length
        prompt = min(ANSWER_PROMPT_TOKENS, context // 4)  # prefills of up to four times this are measured
        new = min(ANSWER_NEW_TOKENS, context - prompt)
        return measure_decoder(built.path, built.graph, prompt_tokens=prompt, new_tokens=new)

    def samples(self, built: Built) -> tuple[Sample, ...]:
        """The bundle's own greedy tokens for a few questions, so that a device can see that it gives the same."""
        answers = self._answers(built, SAMPLE_PROMPTS, SAMPLE_TOKENS)
        return tuple(Sample(prompt=p, token_ids=tuple(ids)) for p, ids in zip(SAMPLE_PROMPTS, answers, strict=True))

    # --- inside -----------------------------------------------------------------------------------------

    def _build(self, recipe: Recipe, base: Built) -> Built:
        """The candidate of `recipe`, made from the fp32 graph `base`."""
        import onnx_ir as ir

        from exporter.convert import describe
        from exporter.graph_file import write_graph
        from exporter.half import halve
        from exporter.quantize import rewrite

        if recipe.precision == "fp32":
            return base
        self._tell(f"quantizing: {recipe.name}", 0)
        graph_model = ir.load(base.path)
        if recipe.precision == "fp16":
            halve(graph_model)
            graph, tensors = describe(graph_model), dict.fromkeys(base.tensors, "fp16")
            made = Pass(name="halve", parameters={"precision": "fp16"})
        else:
            coder = self._coder(base)
            blocks = coder.codes(recipe)
            rewrite(graph_model, blocks)
            graph, tensors = base.graph, {**coder.tensors(blocks), "norm": "fp32", "cache": "fp32"}
            made = coder.record(recipe, blocks)
        directory = self._staging / recipe.name
        path = directory / base.graph.path
        path.parent.mkdir(parents=True)
        weights_bytes = write_graph(graph_model, path)
        return msgspec.structs.replace(
            base,
            name=recipe.name,
            precision=recipe.precision,
            directory=directory,
            graph=graph,
            weights_bytes=weights_bytes,
            tensors=tensors,
            passes=(*base.passes, made),
        )

    def _read_texts(self) -> Texts:
        given = given_texts(self._order, self._source.tokenizer)
        self._graded = given.questions
        if given.calibration is not None and given.evaluation is not None:
            return Texts(given.calibration, given.evaluation)
        self._tell("sampling text from the reference", 0)
        sampled = texts_from_model(self._source.model, self._source.tokenizer, seed=self._order.seed)
        return Texts(given.calibration or sampled.calibration, given.evaluation or sampled.evaluation)

    def _recorded(self) -> Reference:
        told = self._scoring("recording what the reference says")
        return record(
            self._source.model,
            self._texts.evaluation,
            self._staging / "reference",
            told,
            context=self._source.info.context_length,
        )

    def _scoring(self, what: str) -> Callable[[int], None]:
        """Progress over the evaluation text, by tokens."""
        total, done = self._texts.evaluation.scored_tokens, 0

        def scored(tokens: int) -> None:
            nonlocal done
            done += tokens
            self._tell(what, done / total)

        return scored

    def _coder(self, base: Built) -> Coder:
        if self._coder_of is None:
            self._coder_of = Coder(
                base.path, base.graph, self.calibration, block=self._order.block_size, tell=self._tell
            )
        return self._coder_of

    def _answers_right(self, built: Built) -> list[bool]:
        """For each question of `--eval`, whether the greedy answer holds a right one; each graph is asked once."""
        from edge_agent.evaluate import QA_MAX_TOKENS, is_right

        assert self._graded is not None
        if built.path in self._known_right:
            return self._known_right[built.path]
        rows = self._graded.rows
        right: list[bool] = []
        for row, ids in zip(rows, self._answers(built, [row.text for row in rows], QA_MAX_TOKENS), strict=True):
            self._tell(f"asking {built.name}", len(right) / len(rows))
            right.append(is_right(self._source.tokenizer.decode(ids, skip_special_tokens=True), row.answers))
        self._known_right[built.path] = right
        return right

    def _with_answers(self, accuracy: Accuracy, right: list[bool]) -> Accuracy:
        """The budget is held against the share of right answers; what the tokens say stays beside it."""
        assert self._graded is not None
        count = len(right)
        lost = sum(theirs and not ours for theirs, ours in zip(self._right, right, strict=True))
        won = sum(ours and not theirs for theirs, ours in zip(self._right, right, strict=True))
        drop = interval_of_counts(lost, won, count)
        return msgspec.structs.replace(
            accuracy,
            metric="qa_accuracy",
            reference=100 * sum(self._right) / count,
            value=100 * sum(right) / count,
            drop_points=100 * drop.mean,
            drop_low_points=100 * drop.low,
            drop_bound_points=100 * drop.high,
            count=count,
            text=self._graded.origin,
        )

    def _answers(self, built: Built, prompts: Sequence[str], tokens: int) -> Iterator[list[int]]:
        """Greedy token ids of each answer, the stop token included where one came."""
        from edge_agent.runtime.decoder import Decoder
        from edge_agent.runtime.sampling import greedy

        asked = [self._source.prompt_ids(prompt) for prompt in prompts]
        context = min(self._source.info.context_length, max(map(len, asked)) + tokens)
        decoder = Decoder(built.path, built.graph, context=context)
        try:
            for ids in asked:
                left = min(tokens, context - len(ids))
                yield list(decoder.generate(ids, choose=greedy, max_tokens=left, stop_ids=self._source.stop_ids))
        finally:
            decoder.close()


def trim_memory() -> None:
    """Give freed memory back to the system: what was a model's must not count beside the candidates'."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only glibc keeps what it was given back
        ctypes.CDLL("libc.so.6").malloc_trim(0)
