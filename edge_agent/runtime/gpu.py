"""The NVIDIA GPU of this machine through CUDA's driver, libcuda: what it is, and memory on it.

Some fifteen functions by ctypes: they are in every driver that can run an engine at all, under the same names since
CUDA 4, so nothing has to be installed for CUDA 12 on one device and 13 on the other. Tests run this file on a stand-in
for the driver; it has run on an H100 (driver 580, CUDA 13.0).
https://docs.nvidia.com/cuda/cuda-driver-api
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from edge_agent.errors import RuntimeUnavailable

_CAPABILITY: Final = (75, 76)  # major and minor, of CUdevice_attribute
# What says which driver it is, beside the CUDA that it can do: the kernel module, or the release of a Jetson's system.
_DRIVER_FILES: Final = (Path("/sys/module/nvidia/version"), Path("/etc/nv_tegra_release"))


class Gpu:
    """The first GPU, its primary context (which TensorRT and ONNX Runtime share) and one stream."""

    def __init__(self, driver: Any) -> None:
        """`driver` is libcuda. Raises RuntimeUnavailable where it finds no GPU."""
        self._driver = driver
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        major, minor = (self._attribute(which, device) for which in _CAPABILITY)
        cuda = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(cuda))
        self.name = name.value.decode("utf-8", "replace")
        self.compute_capability = f"{major}.{minor}"
        self.cuda = f"{cuda.value // 1000}.{cuda.value % 1000 // 10}"
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.use()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 1)  # not held up by the default stream
        self.stream = int(stream.value or 0)

    def use(self) -> None:
        """Make this GPU the calling thread's own; whoever calls anything below or TensorRT does so first."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of zeros. Raises RuntimeUnavailable where there is not so much memory."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(size))
        return int(address.value)

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, values: NDArray[Any]) -> None:
        """Copy `values` to the GPU, in the order of the stream; they may be changed when this returns."""
        there, host = ctypes.c_uint64(address), ctypes.c_void_p(values.ctypes.data)
        self._call("cuMemcpyHtoDAsync_v2", there, host, ctypes.c_size_t(values.nbytes), self._stream)

    def download(self, address: int, values: NDArray[Any]) -> None:
        """Copy from the GPU into `values`, when all that was queued before is done."""
        there, host = ctypes.c_uint64(address), ctypes.c_void_p(values.ctypes.data)
        self._call("cuMemcpyDtoHAsync_v2", host, there, ctypes.c_size_t(values.nbytes), self._stream)
        self._call("cuStreamSynchronize", self._stream)

    @property
    def _stream(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.stream)

    def _attribute(self, which: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        if (code := getattr(self._driver, function)(*arguments)) != 0:
            raise RuntimeUnavailable(f"the GPU refuses {function}: {self._words(code)}")

    def _words(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._driver.cuGetErrorString(code, ctypes.byref(text))
        return f"error {code}, {text.value.decode() if text.value else 'unknown'}"


def open_gpu() -> Gpu:
    """The GPU of this machine. Raises RuntimeUnavailable where there is none, or no driver for it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeUnavailable(f"no NVIDIA driver is here ({error}): install it, or take --runtime cpu") from None
    return Gpu(driver)


def driver_version(files: tuple[Path, ...] = _DRIVER_FILES) -> str:
    """The kernel's driver, for example `580.65.06` or `R36 (release), REVISION: 4.3`; `unknown` where none says."""
    for path in files:
        try:
            text = path.read_text("utf-8").strip()
        except OSError:
            continue
        found = re.search(r"R\d+ \(release\), REVISION: [\d.]+|[\d.]+", text)
        if found is not None:
            return found.group(0)
    return "unknown"
