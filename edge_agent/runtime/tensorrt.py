"""TensorRT and TensorRT-RTX, which share one Python API: how an engine is built, and how a built one runs.

The only file that imports `tensorrt` or `tensorrt_rtx`. No timing cache is set: with one TensorRT-RTX's builder asks
for a GPU. `build` runs in a process of its own (`engine_process.py`). Knows nothing of tokens.

`OpenEngine` has never run on hardware: no GPU was at hand. Its calls are those of TensorRT's Python documentation
(`deserialize_cuda_engine`, `set_tensor_address`, `execute_async_v3`: 8.5 and newer); tests run it on a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from edge_agent.errors import RuntimeUnavailable
from edge_agent.recipe import Recipe, ShapeRanges
from edge_agent.runtime.engine_process import Event, Order
from edge_agent.runtime.gpu import Gpu

MODULES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL: Final = {
    "tensorrt": "it comes with JetPack (python3-libnvinfer), for a virtual environment with --system-site-packages",
    "tensorrt-rtx": "pip install 'edgefleet[tensorrt]' (x86-64 Linux)",
}
_TOLD_APART: Final = 0.01  # of the whole, between two events of progress


def library(runtime: str) -> Any:
    """The Python module of `runtime`. Raises RuntimeUnavailable where it is not installed."""
    try:
        if runtime == "tensorrt":
            import tensorrt as trt
        else:
            import tensorrt_rtx as trt
        return trt
    except (ImportError, OSError) as error:  # OSError: its own libraries are not there
        raise RuntimeUnavailable(f"{MODULES[runtime]} cannot be imported ({error}): {_INSTALL[runtime]}") from None


def version_refusal(recipe: Recipe, version: str) -> str | None:
    """Why a recipe is not for the library of that version; None if it is."""
    if _numbers(recipe.tensorrt_at_least) <= _numbers(version) < _numbers(recipe.tensorrt_below):
        return None
    return (
        f"the recipe is for {recipe.runtime} {recipe.tensorrt_at_least} to below {recipe.tensorrt_below}, "
        f"here is {version}: export for this device's software"
    )


def _numbers(version: str) -> tuple[int, ...]:
    """
    >>> _numbers("10.3.0.post1")
    (10, 3, 0)
    """
    return tuple(int(part) for part in version.split(".") if part.isdigit())


# --- building -------------------------------------------------------------------------------------------


def build(order: Order, tell: Callable[[Event], None]) -> None:
    """Parse the graph and, where an output is named, build the engine and write it there; `tell` hears how it goes."""
    trt = library(order.runtime)
    errors: list[str] = []
    logger = _logger(trt, errors)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, order))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(order.graph_path):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        lines = [f"{_node(error)}: {_why(error)}" for error in found]
        tell(Event(refused=tuple(lines) or ("the file: " + " ".join(errors[-1:]),)))
        return
    if network.num_outputs == 0:  # the parser takes a file without any field that it knows
        tell(Event(refused=("the file: it is no ONNX graph, or one without outputs",)))
        return
    if order.output is None:
        return
    if order.decomposable_attention:
        _allow_decomposition(trt, network)
    config = builder.create_builder_config()
    if order.compute_capability:
        capability = "SM" + order.compute_capability.replace(".", "")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    for flag in order.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if order.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_bytes)
    misfit = _add_profiles(builder, config, network, order.shapes)
    if misfit is not None:
        tell(Event(failed=misfit))
        return
    if hasattr(trt, "IProgressMonitor"):  # from TensorRT 9 on
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


def _logger(trt: Any, errors: list[str]) -> Any:
    """Keeps what the library calls an error, each on one line, and is silent about the rest."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(" ".join(message.split()))

    return Logger()


def _network_flags(trt: Any, order: Order) -> int:
    flag = trt.NetworkDefinitionCreationFlag
    if order.strongly_typed:
        return 1 << int(flag.STRONGLY_TYPED)
    return 1 << int(flag.EXPLICIT_BATCH)  # TensorRT 8 builds for ONNX with nothing else


def _node(error: Any) -> str:
    """Which node the parser means; TensorRT 8 does not say its name."""
    if not hasattr(error, "node_name"):
        return f"node {error.node()}"
    return f"{error.node_name() or '?'} ({error.node_operator() or 'graph'})"


def _why(error: Any) -> str:
    """The parser's reason without its own assertion, on one line."""
    text = " ".join(str(error.desc()).split()).removeprefix("Assertion failed: ")
    return text[:300]


def _allow_decomposition(trt: Any, network: Any) -> None:
    """Let attention without a fused kernel (fp32, or one token over some masks) be built from products and a softmax.

    The parser leaves `decomposable` off, and then the builder refuses the whole graph.
    """
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    for index in range(network.num_layers if kind is not None else 0):
        layer = network.get_layer(index)
        if layer.type == kind:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


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


# --- running --------------------------------------------------------------------------------------------


class OpenEngine:
    """A deserialized engine with a context for each of its optimization profiles. One thread at a time."""

    def __init__(self, runtime: str, path: Path, gpu: Gpu) -> None:
        """Raises RuntimeUnavailable where the library does not take the engine on this GPU."""
        self._trt = library(runtime)
        self._gpu = gpu
        self._errors: list[str] = []
        self._runtime = self._trt.Runtime(_logger(self._trt, self._errors))
        gpu.use()
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise RuntimeUnavailable(f"{path.name}: {runtime} does not take this engine: {self._reason()}")
        self._contexts = [self._context(profile) for profile in range(self._engine.num_optimization_profiles)]
        self._profiles: dict[tuple[tuple[int, ...], ...], int | None] = {}
        self.names = tuple(self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors))

    def most(self, name: str, axis: int) -> int:
        """The largest size of an input along `axis` that any profile takes."""
        return max(int(self._bounds(name, profile)[2][axis]) for profile in range(len(self._contexts)))

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, as the graph says; -1 is any size."""
        return tuple(self._engine.get_tensor_shape(name))

    def run(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        """Queue one run on the GPU's stream: `shapes` of the inputs, `addresses` of every input and output there.

        The first optimization profile that takes the shapes runs: recipes put that of one token first. Raises
        RuntimeUnavailable with the library's own words.
        """
        profile = self._profile_for(shapes)
        if profile is None:
            raise RuntimeUnavailable(f"the engine was not built for {_told_shapes(shapes)}")
        context = self._contexts[profile]
        taken = all(context.set_input_shape(name, shape) for name, shape in shapes.items())
        taken = taken and all(context.set_tensor_address(name, address) for name, address in addresses.items())
        if not taken or not context.execute_async_v3(self._gpu.stream):
            raise RuntimeUnavailable(f"the engine does not run {_told_shapes(shapes)}: {self._reason()}")

    def close(self) -> None:
        """Release contexts, engine and library, in that order."""
        self._gpu.use()
        self._contexts.clear()
        del self._engine, self._runtime

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self._gpu.stream):
            raise RuntimeUnavailable(f"no execution context for the engine: {self._reason()}: free memory of the GPU")
        return context

    def _profile_for(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        key = tuple(shapes.values())  # the same few shapes come again with every token
        if key not in self._profiles:
            profiles = range(len(self._contexts))
            fits = (one for one in profiles if all(self._fits(name, shape, one) for name, shape in shapes.items()))
            self._profiles[key] = next(fits, None)
        return self._profiles[key]

    def _fits(self, name: str, shape: tuple[int, ...], profile: int) -> bool:
        least, _, most = self._bounds(name, profile)
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def _bounds(self, name: str, profile: int) -> Any:
        return self._engine.get_tensor_profile_shape(name, profile)

    def _reason(self) -> str:
        return (self._errors or ["it gives no reason"])[0][:300]


def _told_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The shapes that differ from run to run; those of the caches do not."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items() if not name.startswith("past_"))
