"""How does a torch decoder become one ONNX graph in a dialect?

`convert` probes the attention layers, exports with `torch.onnx.export(dynamo=True)` while they emit the nodes of the
dialect (`attention.py`, `emit_onnx.py`), and lays the graph out (`layout.py`); in fp16 if asked for (`half.py`).
Dialect `plain` is `onnx` with its newer operators lowered (`plain.py`). Inputs and outputs are those of
`edge_agent.manifest.Graph`.

Does not know how weights are quantized; whether the graph equals PyTorch is asked in `parity.py`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from edge_agent.manifest import CacheLayout, Graph
from exporter.attention import AttentionPlan, LayerCache, emitting
from exporter.errors import ConversionError
from exporter.probe import probe

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

GRAPH_FILE: Final = "decoder.onnx"
OPSET: Final = 21  # the newest that onnxruntime 1.23 and its fusions take in full
IR_VERSION: Final = 10  # that of opset 21
Dialect = Literal["ort", "onnx", "plain"]
_TRACED_OPSET: Final = 18  # that of torch's own translations, so that nothing is converted before it is laid out


def convert(model: Any, context: int, dialect: Dialect = "ort", *, half: bool = False) -> ir.Model:
    """Carry `model`, a transformers causal language model in fp32 eval mode, into a graph of `dialect`.

    `context` is the number of positions that its rotary tables cover, and in dialect `onnx` that its caches have.
    With `half` weights, caches and arithmetic are fp16, else the initializers share memory with the model.
    Raises ConversionError when something cannot be expressed or traced, or a weight is beyond fp16's range.
    """
    import onnx_ir as ir

    from exporter import emit_onnx, plain
    from exporter.half import halve
    from exporter.layout import lay_out, lay_out_standard

    plan = probe(model, context)
    with quiet_export():
        if dialect == "ort":
            converted, traced = _exported(model, plan, emitting, OPSET)
            lay_out(converted)
        else:
            converted, traced = _exported(model, plan, emit_onnx.emitting_onnx, _TRACED_OPSET)
            lay_out_standard(converted, emit_onnx.OPSET)
        if half:
            halve(converted)
        if dialect != "ort":
            plain.lower(converted, whole=dialect == "plain")
    _let_go(traced, converted)
    for present in converted.graph.outputs[1:]:
        # Not "positions + sequence": past and present may be one buffer, and then its length is neither.
        layer = plan.layers[0]
        positions = "present_positions" if dialect == "ort" else "positions"
        present.shape = ir.Shape(["batch", layer.kv_heads, positions, layer.head_dim])
    if dialect == "onnx":
        _fix(converted, "positions", context)
    converted.ir_version = IR_VERSION
    return converted


def describe(converted: ir.Model, dialect: Dialect = "ort") -> Graph:
    """The manifest's description of a graph made by `convert`."""
    import onnx_ir as ir

    inputs = [value.name or "" for value in converted.graph.inputs]
    past = [value for value in converted.graph.inputs if (value.name or "").startswith("past_key_values.")]
    assert past[0].shape is not None
    _, kv_heads, positions, head_dim = past[0].shape
    return Graph(
        path=f"model/{GRAPH_FILE}" if dialect == "ort" else f"model/decoder-{dialect}.onnx",
        dialect=dialect,
        inputs=tuple(inputs),
        outputs=tuple(value.name or "" for value in converted.graph.outputs),
        cache=CacheLayout(
            layers=len(past) // 2,
            kv_heads=int(str(kv_heads)),
            head_dim=int(str(head_dim)),
            dtype="float16" if past[0].dtype == ir.DataType.FLOAT16 else "float32",
            positions=positions if isinstance(positions, int) else None,
        ),
    )


@contextmanager
def quiet_export() -> Iterator[None]:
    """torch.onnx warns of things that concern its own developers; stderr is ours."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _exported(model: Any, plan: AttentionPlan, emit: Callable[..., Any], opset: int) -> tuple[ir.Model, list[ir.Value]]:
    """The optimized graph, and the weights' values as they were traced."""
    import torch

    batch, sequence, past, kept = 2, 3, 5, 2
    layers = plan.layers
    if len({(layer.kv_heads, layer.head_dim) for layer in layers}) != 1:
        raise ConversionError(
            f"{type(model).__name__} cannot be exported: its layers differ in their key and value heads, "
            "and one cache layout cannot hold them"
        )
    inputs = (
        torch.zeros((batch, sequence), dtype=torch.long),
        torch.full((batch,), past + sequence - 1, dtype=torch.int32),
        torch.arange(kept),
        [torch.zeros((batch, layer.kv_heads, past, layer.head_dim)) for layer in layers for _ in range(2)],
    )
    dims = {name: torch.export.Dim(name) for name in ("batch", "sequence", "positions", "kept")}
    shapes = (
        {0: dims["batch"], 1: dims["sequence"]},
        {0: dims["batch"]},
        {0: dims["kept"]},
        [{0: dims["batch"], 2: dims["positions"]} for _ in inputs[3]],
    )
    both = [(f"{i}.{part}") for i in range(len(layers)) for part in ("key", "value")]
    with torch.no_grad(), emit(model, plan) as emitter:
        try:
            program = torch.onnx.export(
                _traced(model, emitter, plan),
                inputs,
                dynamic_shapes=shapes,
                input_names=[
                    "input_ids", "seqlens_k", "logits_to_keep", *(f"past_key_values.{b}" for b in both)
                ],
                output_names=["logits", *(f"present.{b}" for b in both)],
                opset_version=opset,
                dynamo=True,
                optimize=False,
                verbose=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            cause = " ".join(str(error.__cause__ or error).split())[:300]
            raise ConversionError(f"{type(model).__name__} cannot be traced: {cause}") from error
    if program is None:
        raise ConversionError(f"torch.onnx.export gave no graph for {type(model).__name__}")
    traced = list(program.model.graph.initializers.values())
    program.optimize()
    return program.model, traced


def _let_go(traced: list[ir.Value], converted: ir.Model) -> None:
    """Part weights from the values that rewriting took out of the graph: the tracing keeps those for ever."""
    kept = {id(value) for value in converted.graph.initializers.values()}
    for value in traced:
        if id(value) not in kept:
            value.const_value = None


def _fix(converted: ir.Model, name: str, size: int) -> None:
    """Give the dimension `name` a number, wherever it stands."""
    import onnx_ir as ir

    values = [*converted.graph.inputs, *(output for node in converted.graph for output in node.outputs)]
    for value in values:
        if value.shape is not None and any(str(dimension) == name for dimension in value.shape):
            value.shape = ir.Shape([size if str(dimension) == name else dimension for dimension in value.shape])


def _traced(model: Any, emitter: Any, plan: AttentionPlan) -> torch.nn.Module:
    import torch

    class Decoder(torch.nn.Module):  # type: ignore[misc]
        """The traced module: positions and total length come from seqlens_k, as the contract says."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            for index, (cos, sin) in enumerate(plan.tables):
                self.register_buffer(f"cos_{index}", cos)
                self.register_buffer(f"sin_{index}", sin)

        def forward(
            self,
            input_ids: torch.Tensor,
            seqlens_k: torch.Tensor,
            logits_to_keep: torch.Tensor,
            past: list[torch.Tensor],
        ) -> tuple[torch.Tensor, ...]:
            sequence = input_ids.shape[1]
            total = seqlens_k.amax(dim=0) + 1
            first = seqlens_k.to(torch.long) + (1 - sequence)
            tables = [(getattr(self, f"cos_{i}"), getattr(self, f"sin_{i}")) for i in range(len(plan.tables))]
            emitter.feed(past, seqlens_k, total, tables)
            output = self.model(
                input_ids=input_ids,
                position_ids=first[:, None] + torch.arange(sequence)[None],
                past_key_values=LayerCache(),
                use_cache=True,
                logits_to_keep=logits_to_keep,
            )
            return (output.logits, *emitter.present)

    return Decoder().eval()
