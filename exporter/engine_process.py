"""What happens in the process that builds an engine: one order on stdin, events on stdout, and nothing else there.

The only file that imports `tensorrt_rtx`; `engine.py` starts it. No timing cache is set: with one the builder asks for
a GPU. Networks are strongly typed (TensorRT-RTX has no others), so precision is that of the graph.

Does not know where the engine goes in the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from exporter.shapes import ShapeRanges

_TOLD_APART: Final = 0.01  # of the whole, between two events of progress


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the building process is told; without `output` it only parses."""

    graph_path: str
    output: str | None = None
    compute_capability: str = ""
    shapes: ShapeRanges | None = None
    workspace_bytes: int | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the building process says, one line of JSON each. `refused` and `failed` end it."""

    fraction: float | None = None
    refused: tuple[str, ...] | None = None
    failed: str | None = None
    unwritable: str | None = None
    peak_rss_bytes: int | None = None


@contextmanager
def _own_output() -> Iterator[IO[bytes]]:
    """The process's stdout for events; what the library prints there goes to stderr from now on."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as events:
        os.dup2(2, 1)
        yield events


def _work(order: Order, tell: Callable[[Event], None]) -> None:
    import tensorrt_rtx as trt

    errors: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(" ".join(message.split()))

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(order.graph_path):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        lines = [f"{error.node_name() or '?'} ({error.node_operator() or 'graph'}): {_why(error)}" for error in found]
        tell(Event(refused=tuple(lines) or ("the file: " + " ".join(errors[-1:]),)))
        return
    if network.num_outputs == 0:  # the parser takes a file without any field that it knows
        tell(Event(refused=("the file: it is no ONNX graph, or one without outputs",)))
        return
    if order.output is None:
        return
    _allow_decomposition(trt, network)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + order.compute_capability.replace(".", "")), 0)
    if order.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_bytes)
    misfit = _add_profiles(builder, config, network, order.shapes)
    if misfit is not None:
        tell(Event(failed=misfit))
        return
    config.progress_monitor = _monitor(trt, tell)
    built = builder.build_serialized_network(network, config)
    if built is None:
        tell(Event(failed=(errors or ["it gives no reason"])[0][:600]))
        return
    try:
        Path(order.output).write_bytes(built)
    except OSError as error:
        tell(Event(unwritable=f"{order.output} cannot be written: {error.strerror or error}"))
        return
    tell(Event(fraction=1.0, peak_rss_bytes=_peak_rss_bytes()))


def _allow_decomposition(trt: Any, network: Any) -> None:
    """Let attention without a fused kernel (fp32, or one token over some masks) be built from products and a softmax.

    The parser leaves `decomposable` off, and then the builder refuses the whole graph.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _why(error: Any) -> str:
    """The parser's reason without its own assertion, on one line."""
    text = " ".join(str(error.desc()).split()).removeprefix("Assertion failed: ")
    return text[:300]


def _add_profiles(builder: Any, config: Any, network: Any, shapes: ShapeRanges | None) -> str | None:
    """Give the builder the profiles; what is wrong with one, or None."""
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    for profile in shapes.profiles if shapes is not None else ():
        if sorted(names) != sorted(profile.inputs):
            return f"profile {profile.name} gives shapes for {sorted(profile.inputs)}, the inputs are {sorted(names)}"
        made = builder.create_optimization_profile()
        for name in names:
            found = profile.inputs[name]
            try:
                made.set_shape(name, found.minimum, found.optimum, found.maximum)
            except ValueError:
                return f"profile {profile.name} gives input {name} shapes that it does not take: {found.maximum}"
        if config.add_optimization_profile(made) < 0:
            return f"profile {profile.name} does not fit the inputs of the graph"
    return None


def _monitor(trt: Any, tell: Callable[[Event], None]) -> Any:
    """Hears the builder's nested phases and tells which part of the whole is done, never less than before."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._parents: dict[str, str | None] = {}
            self._steps: dict[str, int] = {}
            self._done: dict[str, int] = {}
            self._told = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._parents[phase_name] = parent_phase
            self._steps[phase_name] = max(1, num_steps)
            self._done[phase_name] = 0

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._done[phase_name] = step + 1
            fraction, phase = 0.0, phase_name
            while phase in self._steps:
                fraction = min(1.0, (self._done[phase] + fraction) / self._steps[phase])
                phase = self._parents[phase] or ""
            if fraction >= self._told + _TOLD_APART:
                self._told = fraction
                tell(Event(fraction=fraction))
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass  # its parent's step says so

    return Monitor()


def _peak_rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    with _own_output() as events:

        def tell(event: Event) -> None:
            events.write(msgspec.json.encode(event) + b"\n")

        _work(order, tell)


if __name__ == "__main__":
    _main()
