"""How is this machine, and how did its latest answers go?

psutil asks the system; a GPU is asked through NVML, or on a Jetson through jetson-stats, where these are installed.
What cannot be had is None, never a guess.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from hub import wire

log = logging.getLogger(__name__)

_KEEP: Final = 0.8  # of a running mean over answers, for each new one
_LEAST_TOKENS: Final = 4  # of an answer whose speed says something
# NVML's reasons for clocks below the highest that are no choice of the user: nvmlClocksEventReasons of nvml.h.
_SLOWED: Final = 0x08 | 0x20 | 0x40 | 0x80  # hardware slowdown, software and hardware thermal slowdown, power brake


class Gpu(Protocol):
    """What a GPU, or the board around it, tells."""

    def read(self) -> wire.Machine:
        """Only its own fields are set."""
        ...


class Tally:
    """Running means over the answers that this node gave."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def answered(self, answer: wire.Answer) -> None:
        """One more."""
        tokens, timing = answer.tokens, answer.timing_ms
        figures = {"first_token_ms": timing.queue + timing.prefill}
        if tokens.completion >= _LEAST_TOKENS and timing.decode > 0:
            steps = tokens.completion - (
                answer.finish == "length"
            )  # prefill gives the first token; a stop token is one
            figures["tokens_per_s"] = 1000 * steps / timing.decode
        if tokens.prompt:
            figures["prompt_cached"] = tokens.cached / tokens.prompt
        for name, value in figures.items():
            self._means[name] = value + _KEEP * (self._means.get(name, value) - value)

    def added_to(self, machine: wire.Machine) -> wire.Machine:
        """`machine` with the fields about answers."""
        return msgspec.structs.replace(machine, **self._means)


class MachineSense:
    """Takes readings; the processor's share is that since the reading before. Used by one thread at a time."""

    def __init__(self) -> None:
        import psutil

        self._psutil: Any = psutil
        self._process = psutil.Process()
        self._gpu: Gpu | None = _jetson() or _nvidia()
        psutil.cpu_percent(None)  # from here on

    def read(self) -> wire.Machine:
        """How it is now; the fields about answers are not set."""
        board = wire.Machine() if self._gpu is None else self._gpu.read()
        return msgspec.structs.replace(
            board,
            cpu=self._psutil.cpu_percent(None) / 100,
            memory_available_bytes=self._psutil.virtual_memory().available,
            resident_bytes=self._process.memory_info().rss,
            temperature_c=max((t for t in (self._hottest(), board.temperature_c) if t is not None), default=None),
        )

    def _hottest(self) -> float | None:
        sensors: dict[str, Any] = getattr(self._psutil, "sensors_temperatures", dict)()  # only some systems have them
        return max((one.current for group in sensors.values() for one in group), default=None)


class NvidiaGpu:
    """The first GPU of this machine, through NVML (`nvml` is the module `pynvml`)."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(0)

    def read(self) -> wire.Machine:
        nvml = self._nvml
        told: dict[str, Any] = {}
        asked: dict[str, Callable[[], Any]] = {
            "gpu": lambda: nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100,
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000,
            "temperature_c": lambda: float(nvml.nvmlDeviceGetTemperature(self._handle, nvml.NVML_TEMPERATURE_GPU)),
            "throttled": lambda: bool(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle) & _SLOWED),
        }
        for name, ask in asked.items():
            with contextlib.suppress(nvml.NVMLError):  # each alone may not be told by this GPU
                told[name] = ask()
        return wire.Machine(**told)


class Jetson:
    """A Jetson's board through jetson-stats (`board` is a started `jtop.jtop`), whose thread keeps it up to date."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def read(self) -> wire.Machine:
        board = self._board
        told: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # its service may go away at any time: then this tells nothing
            if board.ok(spin=True):
                loads = [one["status"]["load"] for one in board.gpu.values()]
                told["gpu"] = max(loads, default=0.0) / 100
                told["power_w"] = board.power["tot"]["power"] / 1000
                told["power_mode"] = str(board.nvpmodel)[:64]
                hot = [one["temp"] for one in board.temperature.values() if one.get("online", True)]
                told["temperature_c"] = float(max(hot))
        return wire.Machine(**told)


def _jetson() -> Jetson | None:
    try:
        from jtop import jtop
    except ImportError:
        return None
    try:
        board = jtop(interval=1.0)
        board.start()
    except Exception as error:  # whatever jetson-stats raises where its service does not run
        log.warning("jetson-stats is installed but tells nothing: %s", " ".join(str(error).split()))
        return None
    return Jetson(board)


def _nvidia() -> NvidiaGpu | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return NvidiaGpu(pynvml)
    except pynvml.NVMLError:
        return None
