"""How is this machine: load, memory, temperature, and its GPU where it has one that can be asked?

psutil asks the system, NVML an NVIDIA GPU where its bindings are installed. What cannot be had is None, never a guess.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One look. Shares are 0 to 1; None is what this machine does not tell."""

    cpu: float | None = None
    memory_available_bytes: int | None = None
    resident_bytes: int | None = None
    temperature_c: float | None = None
    gpu: float | None = None
    power_w: float | None = None


class Machine:
    """Takes readings; the processor's share is that since the reading before."""

    def __init__(self) -> None:
        import psutil

        self._psutil: Any = psutil
        self._process = psutil.Process()
        self._gpu = _first_gpu()
        psutil.cpu_percent(None)  # from here on

    def read(self) -> Reading:
        """How it is now. Milliseconds."""
        gpu, power_w = (None, None) if self._gpu is None else self._gpu.read()
        return Reading(
            cpu=self._psutil.cpu_percent(None) / 100,
            memory_available_bytes=self._psutil.virtual_memory().available,
            resident_bytes=self._process.memory_info().rss,
            temperature_c=self._hottest(),
            gpu=gpu,
            power_w=power_w,
        )

    def _hottest(self) -> float | None:
        sensors: dict[str, Any] = getattr(self._psutil, "sensors_temperatures", dict)()  # only some systems have them
        return max((one.current for group in sensors.values() for one in group), default=None)


class _NvidiaGpu:
    """The first GPU of this machine, through NVML."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(0)

    def read(self) -> tuple[float | None, float | None]:
        """(load, watts)."""
        load = power_w = None
        with contextlib.suppress(self._nvml.NVMLError):  # each alone may not be told by this GPU
            load = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100
        with contextlib.suppress(self._nvml.NVMLError):
            power_w = self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000
        return load, power_w


def _first_gpu() -> _NvidiaGpu | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return _NvidiaGpu(pynvml)
    except pynvml.NVMLError:
        return None
