"""How is an encoder carried, judged and measured? The steps of the pipeline for BERT-like models.

The same steps as `generation.py` has for decoders, over texts that need no generator (`encoder_texts.py`). Does not
know in which order the steps come, nor who wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from edge_agent.bench import Cost
from edge_agent.manifest import Accuracy, EncoderInfo, Pass, Sample
from edge_agent.runtime.encoding import Row, TextEncoder
from exporter.candidate import ANSWER_PROMPT_TOKENS, Built
from exporter.codes import Coder
from exporter.encoder_texts import EncoderTexts, encoder_texts
from exporter.errors import CalibrationError, OrderError
from exporter.generation import Tell, trim_memory
from exporter.order import Order
from exporter.recipes import Recipe, encoder_recipes, no_source
from exporter.source import Source
from exporter.text import Text

SAMPLES: Final = 8  # texts whose outputs stand in the manifest
SAMPLE_CHARACTERS: Final = 200  # of each: where every token has an output, they add up


def texts_of(order: Order, source: Source, folder: Path) -> tuple[TextEncoder, EncoderTexts]:
    """The tokenizer as a device has it, written below `folder`, and the texts in its rows.

    Raises SourceError for a tokenizer without a portable form, CalibrationError for the files of texts.
    """
    assert source.encoder is not None
    source.save_tokenizer(folder / "tokenizer")
    cutter = TextEncoder(folder / "tokenizer" / "tokenizer.json", source.encoder.max_tokens)
    texts = encoder_texts(
        cutter, source.task, source.encoder, calibration=order.calibration, evaluation=order.evaluation
    )
    return cutter, texts


class Encoding:
    """One export of an encoder. `source` is opened, `staging` a directory to work in."""

    def __init__(self, order: Order, source: Source, staging: Path, tell: Tell) -> None:
        from exporter.convert_encoder import takes_token_types
        from exporter.encoder_reference import reference_outputs

        assert source.encoder is not None
        self._order, self._source, self._staging, self._tell = order, source, staging, tell
        self._encoder: EncoderInfo = source.encoder
        self._cutter, self._texts = texts_of(order, source, staging)
        calibration = tuple(row.ids for row in self._texts.calibration)
        self.calibration = Text(calibration, f"{len(calibration)} texts")
        tell("recording what the reference says", 0)
        rows = [row for item in self._texts.items for row in item.rows]
        types = [row.types for row in rows] if takes_token_types(source.model) else None
        self._reference = reference_outputs(source.model, source.task, self._encoder, [row.ids for row in rows], types)
        self._coder_of: Coder | None = None  # holds matrices and codes while candidates are made

    @property
    def model(self) -> Any:
        """The torch model, which passes change in place; gone after `release`."""
        return self._source.model

    def convert(self, name: str, passes: Sequence[Pass]) -> Built:
        """The fp32 graph of the torch model as it is now."""
        from exporter.convert import OPSET
        from exporter.encoder_parity import check_encoder_parity

        built = self._converted(name, "ort", passes)
        difference = check_encoder_parity(self._source.model, self._source.task, self._encoder, built.path, built.graph)
        made = Pass(name="convert", parameters={"dialect": "ort", "opset": OPSET, "parity": float(f"{difference:.2g}")})
        return msgspec.structs.replace(built, passes=(*passes, made))

    def convert_for_engine(self, dialect: Literal["onnx", "plain"], context: int, passes: Sequence[Pass]) -> Built:
        """The fp16 graph of the torch model in plain operators, which every TensorRT parses."""
        import onnx_ir as ir

        from exporter.graph_file import write_graph
        from exporter.half import halve

        whole = self._converted("engine-fp32", "plain", passes)
        graph_model = ir.load(whole.path)
        halve(graph_model)
        directory = self._staging / "engine-fp16"
        path = directory / whole.graph.path
        path.parent.mkdir(parents=True)
        weights_bytes = write_graph(graph_model, path)
        return msgspec.structs.replace(
            whole, name="fp16", precision="fp16", directory=directory, weights_bytes=weights_bytes
        )

    def quantized_for_engine(self, half: Built, precision: str) -> Built:
        """Static int8 with calibrated ranges, from the fp32 graph: QuantizeLinear pairs around each product."""
        from exporter.errors import ConversionError
        from exporter.quantize_static import quantize_static

        if precision != "int8":
            raise ConversionError(f"an encoder's engine takes int8 or fp16, not {precision}")
        self._tell("calibrating static int8", 0)
        source = half.directory.with_name("engine-fp32") / half.graph.path
        directory = self._staging / "engine-int8"
        path = directory / half.graph.path
        path.parent.mkdir(parents=True)
        batches = [self._feeds(row, half.graph.inputs) for row in self._texts.calibration]
        quantize_static(source, path, batches, method=self._order.calibrator)
        weights_bytes = sum(file.stat().st_size for file in path.parent.iterdir())
        return msgspec.structs.replace(
            half, name="int8", precision="int8", directory=directory, weights_bytes=weights_bytes
        )

    def verify_surrogate(self, built: Built) -> Accuracy:
        """How truthful a graph of another dialect is, in ONNX Runtime."""
        return self.verify(built)

    def release(self) -> None:
        """Let go of the torch model; its memory is the candidates' from here on."""
        self._source = msgspec.structs.replace(self._source, model=None)
        trim_memory()

    def candidates(self, precisions: tuple[str, ...], base: Built) -> list[Built]:
        """The graphs that this order asks for on a device that runs `precisions`, smallest first, from `base`."""
        if self._order.quantizer == "source" and not self._coder(base).on_grid:
            raise OrderError(no_source(self._source.info.name, self._order.block_size))
        built = [self._build(recipe, base) for recipe in encoder_recipes(self._order, precisions)]
        self._coder_of = None
        trim_memory()
        return built

    def verify(self, built: Built) -> Accuracy:
        """How truthful it is, in the runtime that will serve it."""
        from exporter.verify_encoder import verify_encoder

        self._tell(f"verifying {built.name}", 0)
        accuracy = verify_encoder(
            self._reference,
            built.path,
            built.graph,
            self._texts.items,
            task=self._source.task,
            encoder=self._encoder,
            is_graded=self._texts.is_graded,
            budget_points=self._order.max_accuracy_drop_points,
            text=self._texts.origin,
        )
        if accuracy.reference == 0:
            raise CalibrationError(
                f"{self._order.evaluation}: the untouched model gets none of it right, so there is nothing to lose"
            )
        return accuracy

    def measure(self, built: Built) -> Cost:
        """What a text costs here, in a process of its own."""
        from edge_agent.measure_encoder import measure_encoder

        self._tell(f"measuring {built.name}", 0)
        tokens = min(ANSWER_PROMPT_TOKENS, self._encoder.max_tokens)
        return measure_encoder(built.path, built.graph, tokens=tokens, longest=self._encoder.max_tokens)

    def samples(self, built: Built) -> tuple[Sample, ...]:
        """What the bundle gives for a few texts, so that a device can see that it gives the same."""
        from edge_agent.runtime.encoder import Encoder

        runtime = Encoder(built.path, built.graph)
        name = built.graph.outputs[0]
        samples = []
        for item in self._texts.items[:SAMPLES]:
            text = item.text[:SAMPLE_CHARACTERS]
            row = self._cutter.encode(text)
            output = runtime.run([row.ids], [row.types])[name][0].ravel().tolist()
            samples.append(Sample(prompt=text, output=tuple(output)))
        runtime.close()
        return tuple(samples)

    # --- inside -----------------------------------------------------------------------------------------

    def _build(self, recipe: Recipe, base: Built) -> Built:
        """The candidate of `recipe`, made from the fp32 graph `base`."""
        import onnx_ir as ir

        from exporter.graph_file import write_graph
        from exporter.half import halve
        from exporter.quantize import rewrite
        from exporter.quantize_dynamic import quantize_dynamic

        if recipe.precision == "fp32":
            return base
        self._tell(f"quantizing: {recipe.name}", 0)
        directory = self._staging / recipe.name
        path = directory / base.graph.path
        path.parent.mkdir(parents=True)
        if recipe.method == "dynamic":
            tensors = quantize_dynamic(base.path, path)
            made = Pass(name="quantize", parameters={"precision": "int8", "method": "dynamic"})
        else:
            graph_model = ir.load(base.path)
            if recipe.precision == "fp16":
                halve(graph_model)
                tensors, made = dict.fromkeys(base.tensors, "fp16"), Pass(name="halve", parameters={})
            else:
                coder = self._coder(base)
                blocks = coder.codes(recipe)
                rewrite(graph_model, blocks)
                tensors, made = {**coder.tensors(blocks), "norm": "fp32"}, coder.record(recipe, blocks)
            write_graph(graph_model, path)
        return msgspec.structs.replace(
            base,
            name=recipe.name,
            precision=recipe.precision,
            directory=directory,
            weights_bytes=sum(file.stat().st_size for file in path.parent.iterdir()),
            tensors=tensors,
            passes=(*base.passes, made),
        )

    def _converted(self, name: str, dialect: Literal["ort", "plain"], passes: Sequence[Pass]) -> Built:
        from exporter.convert_encoder import convert_encoder, describe_encoder
        from exporter.graph_file import write_graph

        self._tell(f"converting {name} to ONNX", 0)
        graph_model = convert_encoder(self._source.model, self._source.task, self._encoder, dialect)
        graph = describe_encoder(graph_model, dialect)
        directory = self._staging / name
        path = directory / graph.path
        path.parent.mkdir(parents=True)
        return Built(
            name=name,
            precision="fp32",
            directory=directory,
            graph=graph,
            weights_bytes=write_graph(graph_model, path),
            tensors=dict.fromkeys(("embedding", "head", "linear", "norm"), "fp32"),
            passes=tuple(passes),
            zeros=next((one.parameters["zeros"] for one in reversed(passes) if "zeros" in one.parameters), None),
        )

    def _feeds(self, row: Row, names: Sequence[str]) -> dict[str, Any]:
        import numpy as np

        ids = np.asarray([row.ids], np.int64)
        types = np.asarray([row.types], np.int64)
        known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
        return {name: known[name] for name in names}

    def _coder(self, base: Built) -> Coder:
        if self._coder_of is None:
            self._coder_of = Coder(
                base.path, base.graph, self.calibration, block=self._order.block_size, tell=self._tell
            )
        return self._coder_of
