"""How does an ONNX graph become a TensorRT-RTX engine, on a machine that need not have a GPU?

`build_engine` builds ahead of time for one compute capability; `parse_graph` says what TensorRT's parser refuses. Both
work in the process of their own that a device builds in, too (`edge_agent.runtime.engine_process`).

What TensorRT-RTX 1.7.1 takes of quantized weights, tried for SM 8.6, 8.9 and 12.0 (all alike; fp16 scales, opset 21):

| weight of a MatMul, `DequantizeLinear` before it | taken | in the engine |
|---|---|---|
| int8 for each output channel, or one scale; with or without zero points of 0 | yes | 8 bits |
| int8 in blocks of 32 or 128 | yes | unpacked to 16 bits: no gain |
| int4 in blocks of 16, 32, 64, 128 along K; zero points of 0 or none; also transposed | yes | 4 bits |
| int4 for each output channel | yes | unpacked: no gain |
| int8 activations and weights (static QDQ) | yes | 8 bits, or unpacked where the shape is small |
| int4 with zero points other than 0; any uint4 or uint8 | refused by the parser | |
| a quantized table under `Gather` | yes | unpacked to 16 bits |

So weights are symmetric: int8 for each output channel, int4 in blocks along K; an embedding stays fp16.

Its `Attention` has one output and neither past nor soft-capping, and fused kernels for some types and masks only; its
`TensorScatter` wants axis -2 and a cache of fixed length. A second optimization profile of a
decoder holds the linear weights a second time (`exporter.shapes.default_shapes`).

Does not know how accurate or fast an engine is: that takes the GPU.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

import msgspec

from device_profiles.profile import Profile
from edge_agent.recipe import ShapeRanges
from edge_agent.runtime.engine_process import BuildProcess, Event, Order
from exporter.engine_header import CAPABILITIES, read_engine_header
from exporter.errors import ConversionError, EngineError, OutputError

RUNTIME: Final = "tensorrt-rtx"
_INSTALL: Final = "pip install 'edgefleet[tensorrt]' (x86-64 Linux)"


class BuiltEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine on disk, and what building it took."""

    path: Path
    runtime: str
    version: str
    compute_capability: str
    bytes: int
    seconds: float
    peak_rss_bytes: int


def engine_runtimes() -> tuple[str, ...]:
    """The runtimes that engines can be built for here."""
    return (RUNTIME,) if importlib.util.find_spec("tensorrt_rtx") is not None else ()


def builds_engine(asked: Literal["auto", "none", "tensorrt-rtx"], profile: Profile) -> bool:
    """Whether an export for `profile` builds an engine, given `--engine`; `auto` builds where it can.

    Raises EngineError where `tensorrt-rtx` is asked for and cannot be had.
    """
    if asked == "none":
        return False
    if RUNTIME not in profile.runtimes or profile.compute_capability not in CAPABILITIES:
        if asked == "auto":
            return False
        raise EngineError(
            f"{profile.name} (compute capability {profile.compute_capability}) does not run TensorRT-RTX engines, "
            f"which are built for {', '.join(CAPABILITIES)}: leave --engine out"
        )
    if asked == "auto" or engine_runtimes():
        return bool(engine_runtimes())
    raise EngineError(f"--engine tensorrt-rtx needs the package tensorrt-rtx-cu13: {_INSTALL}, or --engine none")


def build_engine(
    graph_path: Path,
    output: Path,
    *,
    compute_capability: str,
    shapes: ShapeRanges,
    workspace_bytes: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> BuiltEngine:
    """Build the graph for one compute capability ("8.6") and put the engine at `output`, whole or not at all.

    The same graph gives the same bytes. `on_progress` hears the part that is done, 0 to 1.
    Raises ConversionError with the node that the parser refuses, EngineError for a capability, a shape or a graph that
    the builder refuses, and OutputError where the file cannot be written.
    """
    if compute_capability not in CAPABILITIES:
        raise EngineError(
            f"TensorRT-RTX builds for compute capability {', '.join(CAPABILITIES)}, not for {compute_capability}"
        )
    started = time.monotonic()
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    peak_rss_bytes = 0
    order = Order(
        graph_path=str(graph_path.resolve()),
        output=str(partial.resolve()),
        compute_capability=compute_capability,
        shapes=shapes,
        workspace_bytes=workspace_bytes,
    )
    try:
        with closing(_told(order)) as told:  # whatever ends this: the builder is gone before its file is
            for event in told:
                if event.refused:
                    raise ConversionError(f"{graph_path.name}: TensorRT-RTX refuses {event.refused[0]}")
                if event.fraction is not None and on_progress is not None:
                    on_progress(event.fraction)
                peak_rss_bytes = event.peak_rss_bytes or peak_rss_bytes
        header = read_engine_header(partial)
        if header.compute_capabilities != (compute_capability,):
            raise EngineError(
                f"{graph_path.name} was built for {header.compute_capabilities}, not {compute_capability}"
            )
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return BuiltEngine(
        path=output,
        runtime=RUNTIME,
        version=header.version,
        compute_capability=compute_capability,
        bytes=header.bytes,
        seconds=time.monotonic() - started,
        peak_rss_bytes=peak_rss_bytes,
    )


def parse_graph(graph_path: Path) -> list[str]:
    """What TensorRT-RTX's parser refuses of this graph, as `node (op): why`; empty if it takes all.

    The parser stops at its first error, so a list of one is not all there is. Raises EngineError without the wheel.
    """
    return [line for event in _told(Order(graph_path=str(graph_path.resolve()))) for line in event.refused or ()]


def _told(order: Order) -> Generator[Event, None, None]:
    """Start the building process and give on what it says; it is gone when this ends, whatever the way."""
    if not engine_runtimes():
        raise EngineError(f"TensorRT-RTX is not installed: {_INSTALL}")
    name = Path(order.graph_path).name
    with closing(BuildProcess(order).events()) as events:
        for event in events:
            if event.unwritable is not None:
                raise OutputError(event.unwritable)
            if event.failed is not None:
                raise EngineError(f"{name}: TensorRT-RTX cannot build it: {event.failed}")
            if event.crashed is not None:
                raise EngineError(f"{name}: TensorRT-RTX {event.crashed}")
            yield event
