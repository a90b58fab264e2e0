"""Readings of the machine: what it tells, and None for what it does not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import psutil
import pytest

from edge_agent.telemetry import MachineSense, Tally
from hub import wire


def test_load_and_memory_are_read() -> None:
    """Shares are between 0 and 1, bytes are bytes."""
    reading = MachineSense().read()
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
    assert MachineSense().read().temperature_c == 71.0
    monkeypatch.setattr(psutil, "sensors_temperatures", dict)
    assert MachineSense().read().temperature_c is None
    monkeypatch.delattr(psutil, "sensors_temperatures")
    assert MachineSense().read().temperature_c is None


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
        nvmlDeviceGetTemperature=lambda gpu, sensor: 64,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x20 | 0x04,
    )


def test_a_gpu_tells_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its load without its power; bindings without a GPU tell nothing."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml(gpus=1))
    reading = MachineSense().read()
    assert (reading.gpu, reading.power_w, reading.throttled) == (0.37, None, True)
    assert reading.temperature_c is not None
    assert reading.temperature_c >= 64
    monkeypatch.setitem(sys.modules, "pynvml", nvml(gpus=0))
    assert MachineSense().read().gpu is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert MachineSense().read().gpu is None


class JtopException(Exception):
    """What jetson-stats raises where its service does not run."""


def board(*, runs: bool = True) -> SimpleNamespace:
    """jetson-stats, as far as it is used, on a board that is hot and slowed down by its power mode."""

    def start() -> None:
        if not runs:
            raise JtopException("The jtop.service is not active.")

    return SimpleNamespace(
        start=start,
        ok=lambda spin: True,
        gpu={"gpu": {"status": {"load": 41.0}}},
        power={"tot": {"power": 7300}},
        nvpmodel="15W",
        temperature={"cpu": {"temp": 98.5, "online": True}, "off": {"temp": -256, "online": False}},
    )


def test_a_jetson_tells_its_power_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watts, share and mode; without its service, or once that goes away, it tells nothing and nothing fails."""
    told = board()
    monkeypatch.setitem(sys.modules, "jtop", SimpleNamespace(jtop=lambda interval: told))
    sense = MachineSense()
    reading = sense.read()
    assert (reading.gpu, reading.power_w, reading.power_mode) == (0.41, 7.3, "15W")
    assert reading.temperature_c is not None
    assert reading.temperature_c >= 98.5
    told.ok = lambda spin: (_ for _ in ()).throw(JtopException("gone"))
    assert sense.read().power_mode is None
    monkeypatch.setitem(sys.modules, "jtop", SimpleNamespace(jtop=lambda interval: board(runs=False)))
    assert MachineSense().read().power_mode is None


def answer(finish: str, tokens: wire.Tokens, timing: wire.Timing) -> wire.Answer:
    return wire.Answer(
        id="1", node="n", bundle="b", finish=finish, attempt=1, text="x", tokens=tokens, timing_ms=timing
    )  # type: ignore[arg-type]


def test_answers_leave_running_means() -> None:
    """Tokens per second of the steps alone; short answers and encoders say nothing of it."""
    tally = Tally()
    assert tally.added_to(wire.Machine(cpu=0.5)) == wire.Machine(cpu=0.5)
    timing = wire.Timing(queue=10.0, prefill=90.0, decode=1000.0)
    tally.answered(answer("length", wire.Tokens(prompt=40, cached=10, completion=51), timing))
    first = tally.added_to(wire.Machine())
    assert (first.tokens_per_s, first.first_token_ms, first.prompt_cached) == (50.0, 100.0, 0.25)
    tally.answered(answer("stop", wire.Tokens(prompt=40, completion=2), wire.Timing(prefill=200.0, decode=1.0)))
    second = tally.added_to(wire.Machine())
    assert second.tokens_per_s == 50.0
    assert second.first_token_ms == 120.0
    assert second.prompt_cached == 0.2
