"""Readings of the machine: what it tells, and None for what it does not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import psutil
import pytest

from edge_agent.telemetry import Machine


def test_load_and_memory_are_read() -> None:
    """Shares are between 0 and 1, bytes are bytes."""
    reading = Machine().read()
    assert reading.cpu is not None
    assert 0 <= reading.cpu <= 1
    assert reading.resident_bytes is not None
    assert reading.memory_available_bytes is not None
    assert 1_000_000 < reading.resident_bytes < psutil.virtual_memory().total
    assert 0 < reading.memory_available_bytes <= psutil.virtual_memory().total


def test_the_hottest_sensor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all groups; a machine without sensors, or a system that knows none, tells nothing."""
    groups = {
        "cpu": [SimpleNamespace(current=40.0), SimpleNamespace(current=71.0)],
        "gpu": [SimpleNamespace(current=55.0)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: groups, raising=False)
    assert Machine().read().temperature_c == 71.0
    monkeypatch.setattr(psutil, "sensors_temperatures", dict)
    assert Machine().read().temperature_c is None
    monkeypatch.delattr(psutil, "sensors_temperatures")
    assert Machine().read().temperature_c is None


class NvmlError(Exception):
    """What NVML's bindings raise."""


def nvml(gpus: int) -> SimpleNamespace:
    """NVML's bindings, as far as they are used: a GPU tells its load and not its power."""

    def handle(index: int) -> int:
        if index >= gpus:
            raise NvmlError("not found")
        return index

    def refuse(gpu: int) -> int:
        raise NvmlError("not supported")

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=37),
        nvmlDeviceGetPowerUsage=refuse,
    )


def test_a_gpu_tells_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its load without its power; bindings without a GPU tell nothing."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml(gpus=1))
    reading = Machine().read()
    assert (reading.gpu, reading.power_w) == (0.37, None)
    monkeypatch.setitem(sys.modules, "pynvml", nvml(gpus=0))
    assert Machine().read().gpu is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Machine().read().gpu is None
