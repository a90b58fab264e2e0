"""The process that builds an engine: one order on stdin, events on stdout, and nothing else there.

A process of its own, so that a crash of the library is one line of error, stopping it ends a build at once, what the
library prints reaches neither stdout nor stderr, it can give way to whoever answers meanwhile, and the memory measured
is the build's own. Does not know how an engine is built (`tensorrt.py`), or where it goes in the end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import msgspec

from edge_agent.recipe import ShapeRanges

_ROOT = Path(__file__).resolve().parent.parent.parent


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told; without `output` it only parses.

    `runtime` is whose library builds. `compute_capability` is the one to build for where there is no GPU (TensorRT-RTX
    alone can); without it the engine is for the GPU of this machine. `flags` are names of `BuilderFlag`, for a network
    that is not `strongly_typed`. `niceness` is added to the process's own.
    """

    graph_path: str
    runtime: Literal["tensorrt", "tensorrt-rtx"] = "tensorrt-rtx"
    output: str | None = None
    compute_capability: str = ""
    shapes: ShapeRanges | None = None
    workspace_bytes: int | None = None
    strongly_typed: bool = True
    flags: tuple[str, ...] = ()
    decomposable_attention: bool = True
    niceness: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the process says, a line of JSON each. All but `fraction` end it; its parent says that it `crashed`."""

    fraction: float | None = None
    refused: tuple[str, ...] | None = None
    failed: str | None = None
    unwritable: str | None = None
    crashed: str | None = None
    peak_rss_bytes: int | None = None


class BuildProcess:
    """Started with its order; `events` must be read to its end or `kill` called."""

    def __init__(self, order: Order) -> None:
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the events
        search = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge_agent.runtime.engine_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env={**os.environ, "PYTHONPATH": search},
        )
        self._order = order

    def events(self) -> Generator[Event, None, None]:
        """What it says; it is gone when this ends, whatever the way."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin, process.stdout:
                process.stdin.write(msgspec.json.encode(self._order))
                process.stdin.close()
                for line in process.stdout:
                    yield msgspec.json.decode(line, type=Event)
            if (code := process.wait()) != 0:
                self._words.seek(0)
                last = self._words.read().decode("utf-8", "replace").strip().splitlines()[-1:]
                yield Event(crashed=f"ended with {code}: {' '.join(last)[:300]}")
        except BrokenPipeError:  # it was killed before it had read its order
            yield Event(crashed="ended before it began")
        finally:
            self.kill()
            self._words.close()

    def kill(self) -> None:
        """End it now; from any thread."""
        self._process.kill()
        self._process.wait()


# --- in the building process ----------------------------------------------------------------------------


@contextmanager
def _own_output() -> Iterator[IO[bytes]]:
    """The process's stdout for events; what the library prints there goes to stderr from now on."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as events:
        os.dup2(2, 1)
        yield events


def _end_with_parent() -> None:
    """So that a node that is killed leaves no builder behind (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _main() -> None:
    _end_with_parent()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    with _own_output() as events:

        def tell(event: Event) -> None:
            events.write(msgspec.json.encode(event) + b"\n")

        from edge_agent.runtime import tensorrt

        os.nice(order.niceness)
        tensorrt.build(order, tell)


if __name__ == "__main__":
    _main()
