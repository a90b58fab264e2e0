"""Which input lengths is an engine built for?

An engine takes every shape between the minimum and the maximum of one of its profiles and is tuned for the optimum.
`default_shapes` finds them from the names that the graph gives its dimensions. Knows nothing of TensorRT's own types.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.manifest import Graph
from edge_agent.recipe import ShapeProfile, ShapeRange, ShapeRanges
from exporter.errors import ConversionError

Dimensions = tuple["int | str", ...]  # of one input: a size, or the name that the graph gives it

PROMPT_TOKENS: Final = 128  # what prefill and encoders are tuned for: a question in its template
ENCODER_ROWS: Final = 8  # texts that an encoder takes at once
KEPT_AT_MOST: Final = 16  # logits of so many positions at once; each costs a vocabulary of memory


class _Size(msgspec.Struct, frozen=True):
    minimum: int
    optimum: int
    maximum: int


def input_dimensions(graph_path: Path) -> dict[str, Dimensions]:
    """The dimensions of every input of an ONNX file, as the file names them; weights are not read.

    Raises ConversionError for a dimension without size and name.
    """
    import onnx

    graph = onnx.load(graph_path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, Dimensions] = {}
    for value in graph.input:
        if value.name in weights:
            continue
        sizes = [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]
        if not all(sizes):
            raise ConversionError(f"{graph_path.name}: input {value.name} has a dimension without size or name")
        found[value.name] = tuple(sizes)
    return found


def default_shapes(
    graph: Graph, dimensions: Mapping[str, Dimensions], *, context: int, prefill_apart: bool
) -> ShapeRanges:
    """Sensible ranges for `graph`, whose inputs have `dimensions` (see `input_dimensions`).

    `context` is the number of positions served (of an encoder: the longest text in tokens). Decoders answer one
    question at a time, so their batch is 1.

    `prefill_apart` gives them a profile for one token and one for a prompt. TensorRT, which times its kernels at the
    optimum, gains from that; TensorRT-RTX, which compiles for the shape at hand when it runs, does not, and 1.7.1 then
    holds the linear weights twice (SmolLM2 in fp16: 499 MB instead of 281 MB). Encoders have one profile either way.

    Raises ConversionError for a dimension whose meaning is not known.
    """
    prompt = min(PROMPT_TOKENS, context)
    one = _Size(1, 1, 1)
    positions = _Size(1, context, context)
    if graph.cache is None:
        sizes = {"encode": {"batch": _Size(1, 1, ENCODER_ROWS), "sequence": _Size(1, prompt, context)}}
    else:
        shared = {"batch": one, "positions": positions}
        kept = _Size(1, 1, min(KEPT_AT_MOST, context))
        decode = {**shared, "sequence": one, "kept": one}
        if prefill_apart:
            sizes = {"decode": decode, "prefill": {**shared, "sequence": _Size(1, prompt, context), "kept": kept}}
        else:
            sizes = {"both": {**shared, "sequence": _Size(1, 1, context), "kept": kept}}
    return ShapeRanges(
        profiles=tuple(
            ShapeProfile(name=name, inputs={one: _range(one, of, known) for one, of in dimensions.items()})
            for name, known in sizes.items()
        )
    )


def _range(name: str, dimensions: Dimensions, known: Mapping[str, _Size]) -> ShapeRange:
    unknown = [size for size in dimensions if isinstance(size, str) and size not in known]
    if unknown:
        raise ConversionError(
            f"input {name} has a dimension {unknown[0]!r}; lengths are known for {', '.join(sorted(known))}"
        )
    sizes = [known[size] if isinstance(size, str) else _Size(size, size, size) for size in dimensions]
    return ShapeRange(
        minimum=tuple(size.minimum for size in sizes),
        optimum=tuple(size.optimum for size in sizes),
        maximum=tuple(size.maximum for size in sizes),
    )
