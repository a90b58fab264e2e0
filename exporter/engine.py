"""How does an ONNX graph become a TensorRT-RTX engine, on a machine that need not have a GPU?

`build_engine` builds ahead of time for one compute capability; `parse_graph` says what TensorRT's parser refuses. The
only file that imports `tensorrt_rtx`, and it does so in a process of its own: a crash of the library is then one line
of error, Ctrl-C ends a build at once, what the library prints reaches neither stdout nor stderr, and the memory
measured is the build's own. No timing cache is set: with one the builder asks for a GPU.

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

Its `Attention` has one output and neither past nor soft-capping; its `TensorScatter` wants axis -2 and a cache of fixed
length. It does not know how accurate or fast an engine is: that takes the GPU.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Literal

import msgspec

from device_profiles.profile import Profile
from exporter.engine_header import CAPABILITIES, read_engine_header
from exporter.errors import ConversionError, EngineError, OutputError
from exporter.shapes import ShapeRanges

RUNTIME: Final = "tensorrt-rtx"
_TOLD_APART: Final = 0.01
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


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the building process is told; without `output` it only parses."""

    graph_path: str
    output: str | None = None
    compute_capability: str = ""
    shapes: ShapeRanges | None = None
    workspace_bytes: int | None = None


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the building process says, one line of JSON each. `refused` and `failed` end it."""

    fraction: float | None = None
    refused: tuple[str, ...] | None = None
    failed: str | None = None
    unwritable: str | None = None
    peak_rss_bytes: int | None = None


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
    order = _Order(
        graph_path=str(graph_path.resolve()),
        output=str(partial.resolve()),
        compute_capability=compute_capability,
        shapes=shapes,
        workspace_bytes=workspace_bytes,
    )
    try:
        for event in _told(order):
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
    return [line for event in _told(_Order(graph_path=str(graph_path.resolve()))) for line in event.refused or ()]


def _told(order: _Order) -> Iterator[_Event]:
    """Start the building process and give on what it says; it is gone when this ends, whatever the way."""
    if not engine_runtimes():
        raise EngineError(f"TensorRT-RTX is not installed: {_INSTALL}")
    root = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    name = Path(order.graph_path).name
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            env={**os.environ, "PYTHONPATH": search},
        )
        try:
            yield from _events(process, order)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if code != 0:
            words.seek(0)
            last = words.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            raise EngineError(f"{name}: TensorRT-RTX ended with {code}: {' '.join(last)[:300]}")


def _events(process: subprocess.Popen[bytes], order: _Order) -> Iterator[_Event]:
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(msgspec.json.encode(order))
        process.stdin.close()
        for line in process.stdout:
            event = msgspec.json.decode(line, type=_Event)
            if event.unwritable is not None:
                raise OutputError(event.unwritable)
            if event.failed is not None:
                raise EngineError(f"{Path(order.graph_path).name}: TensorRT-RTX cannot build it: {event.failed}")
            yield event


# --- in the building process ----------------------------------------------------------------------------


@contextmanager
def _own_output() -> Iterator[IO[bytes]]:
    """The process's stdout for events; what the library prints there goes to stderr from now on."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as events:
        os.dup2(2, 1)
        yield events


def _work(order: _Order, tell: Callable[[_Event], None]) -> None:
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
        tell(_Event(refused=tuple(lines) or ("the file: " + " ".join(errors[-1:]),)))
        return
    if network.num_outputs == 0:  # the parser takes a file without any field that it knows
        tell(_Event(refused=("the file: it is no ONNX graph, or one without outputs",)))
        return
    if order.output is None:
        return
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + order.compute_capability.replace(".", "")), 0)
    if order.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_bytes)
    misfit = _add_profiles(builder, config, network, order.shapes)
    if misfit is not None:
        tell(_Event(failed=misfit))
        return
    config.progress_monitor = _monitor(trt, tell)
    built = builder.build_serialized_network(network, config)
    if built is None:
        tell(_Event(failed=(errors or ["it gives no reason"])[0][:400]))
        return
    try:
        Path(order.output).write_bytes(built)
    except OSError as error:
        tell(_Event(unwritable=f"{order.output} cannot be written: {error.strerror or error}"))
        return
    tell(_Event(fraction=1.0, peak_rss_bytes=_peak_rss_bytes()))


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


def _monitor(trt: Any, tell: Callable[[_Event], None]) -> Any:
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
                tell(_Event(fraction=fraction))
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
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=_Order)
    with _own_output() as events:

        def tell(event: _Event) -> None:
            events.write(msgspec.json.encode(event) + b"\n")

        _work(order, tell)


if __name__ == "__main__":
    _main()
