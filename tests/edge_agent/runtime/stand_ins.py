"""Stand-ins for what needs a GPU: CUDA's driver over the host's memory, and a TensorRT that runs an ONNX graph.

Both are strict where the real ones are: a thread without a context, memory that was not allocated, shapes outside of a
profile, and tensors without an address are errors.
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

STREAM = 7
_NOT_INITIALIZED, _INVALID_VALUE, _OUT_OF_MEMORY, _NO_DEVICE, _INVALID_CONTEXT = 3, 1, 2, 100, 201


class HostDriver:
    """libcuda, with `memory_bytes` of memory and the GPU that the test says."""

    def __init__(
        self, *, name: str = "Orin", capability: tuple[int, int] = (8, 7), cuda: int = 12060, devices: int = 1,
        memory_bytes: int = 10**9,
    ) -> None:  # fmt: skip
        self.held: dict[int, Any] = {}
        self.memory_bytes = memory_bytes
        self._name, self._capability, self._cuda, self._devices = name, capability, cuda, devices
        self._thread = threading.local()

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0 if self._devices else _NO_DEVICE

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        name.value = self._name.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, which: int, device: Any) -> int:  # noqa: N802
        value._obj.value = self._capability[{75: 0, 76: 1}[which]]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self._cuda
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802
        context._obj.value = 1
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:  # noqa: N802
        self._thread.current = context.value
        return 0

    def cuStreamCreate(self, stream: Any, flags: int) -> int:  # noqa: N802
        stream._obj.value = STREAM
        return self._context()

    def cuStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        return self._context() or (0 if stream.value == STREAM else _INVALID_VALUE)

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:  # noqa: N802
        if size.value + sum(block.nbytes for block in self.held.values()) > self.memory_bytes:
            return _OUT_OF_MEMORY
        block = np.full(size.value, 0xFF, np.uint8)  # what was there before: NaN, to a float
        self.held[block.ctypes.data] = block
        address._obj.value = block.ctypes.data
        return self._context()

    def cuMemsetD8_v2(self, address: Any, value: Any, size: Any) -> int:  # noqa: N802
        return self._context() or self._copied(
            address.value, size.value, lambda: ctypes.memset(address.value, value.value, size.value)
        )

    def cuMemFree_v2(self, address: Any) -> int:  # noqa: N802
        return self._context() or (0 if self.held.pop(address.value, None) is not None else _INVALID_VALUE)

    def cuMemcpyHtoDAsync_v2(self, there: Any, host: Any, size: Any, stream: Any) -> int:  # noqa: N802
        move = lambda: ctypes.memmove(there.value, host.value, size.value)  # noqa: E731
        return self._context() or self._copied(there.value, size.value, move)

    def cuMemcpyDtoHAsync_v2(self, host: Any, there: Any, size: Any, stream: Any) -> int:  # noqa: N802
        move = lambda: ctypes.memmove(host.value, there.value, size.value)  # noqa: E731
        return self._context() or self._copied(there.value, size.value, move)

    def cuGetErrorString(self, code: int, text: Any) -> int:  # noqa: N802
        text._obj.value = {_OUT_OF_MEMORY: b"out of memory", _NO_DEVICE: b"no CUDA-capable device is detected"}.get(
            code
        )
        return 0

    def _context(self) -> int:
        return 0 if getattr(self._thread, "current", None) else _INVALID_CONTEXT

    def _copied(self, address: int, size: int, move: Any) -> int:
        if address not in self.held or size > self.held[address].nbytes:
            return _INVALID_VALUE
        move()
        return 0


class Context:
    """An execution context of the stand-in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.runs = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self._profile = profile
        return stream == STREAM

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.profiles[self._profile][name]
        self._shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in self._engine.names

    def execute_async_v3(self, stream: int) -> bool:
        if stream != STREAM or set(self._addresses) != set(self._engine.names):
            return False
        session = self._engine.session
        feed = {
            one.name: self._at(one.name, self._shapes[one.name], _DTYPES[one.type]).copy()
            for one in session.get_inputs()
        }
        names = [one.name for one in session.get_outputs()]
        for name, value in zip(names, session.run(names, feed), strict=True):
            self._at(name, value.shape, value.dtype)[...] = value
        self.runs += 1
        return True

    def _at(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(self._addresses[name]), dtype).reshape(shape)


_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}


class Engine:
    """A deserialized engine: an ONNX graph and optimization profiles."""

    def __init__(self, graph: Path, profiles: list[dict[str, Any]]) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.profiles = profiles
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.names = [one.name for one in tensors]
        self._shapes = {one.name: one.shape for one in tensors}
        self.contexts: list[Context] = []
        self.num_optimization_profiles = len(profiles)
        self.num_io_tensors = len(self.names)

    def create_execution_context(self) -> Context:
        self.contexts.append(Context(self))
        return self.contexts[-1]

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._shapes[name])

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self.profiles[profile][name]


def tensorrt_over(graph: Path, profiles: list[dict[str, Any]], version: str = "10.3.0") -> Any:
    """A `tensorrt` whose every engine is `graph`; `opened` lists them. Bytes that are not `engine` are none."""
    opened: list[Engine] = []

    class Logger:
        ERROR, INTERNAL_ERROR = "error", "internal"

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, payload: bytes) -> Engine | None:
            if payload != b"engine":
                self._logger.log(Logger.ERROR, "magic tag\n  does not match")
                return None
            opened.append(Engine(graph, profiles))
            return opened[-1]

    return SimpleNamespace(__version__=version, ILogger=Logger, Runtime=Runtime, opened=opened)


def decoder_profiles(graph: Any, positions: int, kept: int = 4) -> list[dict[str, Any]]:
    """The profiles that recipes have: one token, and a prompt."""
    layout = graph.cache
    caches = {
        name: [(1, layout.kv_heads, size, layout.head_dim) for size in (1, positions, positions)]
        for name in graph.inputs
        if name.startswith("past_key_values.")
    }
    shared = {**caches, "seqlens_k": [(1,)] * 3}
    return [
        {**shared, "input_ids": [(1, 1)] * 3, "logits_to_keep": [(1,)] * 3},
        {**shared, "input_ids": [(1, 1), (1, 8), (1, positions)], "logits_to_keep": [(1,), (1,), (kept,)]},
    ]
