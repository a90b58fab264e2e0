"""The building process by itself: what goes in, and what comes out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edge_agent.runtime.engine_process import Event, Order
from exporter.engine import engine_runtimes
from tests.exporter.test_engine import ROOT, SHAPES, matmul_file

pytestmark = pytest.mark.skipif(not engine_runtimes(), reason="TensorRT-RTX is not installed (x86-64 Linux only)")


def told(order: Order, library: Path | None = None) -> list[Event]:
    """What the process says; every line of its stdout must be an event. `library` goes before the real one."""
    search = [str(library)] if library else []
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.runtime.engine_process"],
        input=msgspec.json.encode(order), capture_output=True, cwd=ROOT, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*search, str(ROOT)])},
    )  # fmt: skip
    return [msgspec.json.decode(line, type=Event) for line in done.stdout.splitlines()]


def test_parsing_alone_says_nothing_and_writes_nothing(tmp_path: Path) -> None:
    """An order without output ends without an event when the parser takes the graph."""
    graph = matmul_file(tmp_path / "graph.onnx")
    assert told(Order(graph_path=str(graph))) == []
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]


def test_what_the_library_prints_is_no_event(tmp_path: Path) -> None:
    """A library that writes to stdout, as TensorRT's importer does, cannot break the stream of events."""
    (tmp_path / "tensorrt_rtx.py").write_text("import os\nos.write(1, b'WARNING: payload\\n')\nILogger = None\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        told(Order(graph_path="graph.onnx"), library=tmp_path)
    assert caught.value.stdout == b""
    assert b"WARNING: payload" in caught.value.stderr


def test_progress_ends_with_the_memory_that_it_took(tmp_path: Path) -> None:
    """Building tells growing fractions and, last, the whole with the process's own peak of memory."""
    output = tmp_path / "a.engine"
    graph = matmul_file(tmp_path / "graph.onnx")
    order = Order(graph_path=str(graph), output=str(output), compute_capability="8.6", shapes=SHAPES)
    *before, last = told(order)
    fractions = [event.fraction for event in before]
    assert len(fractions) > 3
    assert fractions == sorted(fractions, key=lambda fraction: fraction or 0)
    assert last.fraction == 1.0
    assert (last.peak_rss_bytes or 0) > output.stat().st_size


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_node_that_is_killed_leaves_no_builder(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """Whatever way the parent goes, its builder goes with it."""
    (tmp_path / "tensorrt_rtx.py").write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    script = (
        "from edge_agent.runtime import engine_process as one\nfrom pathlib import Path\nimport sys\n"
        f"one._ROOT = Path({str(tmp_path)!r})\n"
        "list(one.BuildProcess(one.Order(graph_path='g.onnx')).events())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), limit_s=20)
    finally:
        parent.kill()
        parent.wait()
    builder = Path("/proc") / (tmp_path / "pid").read_text()

    def gone() -> bool:
        try:
            return "State:\tZ" in (builder / "status").read_text()  # dead, and nobody has asked for its exit status
        except (FileNotFoundError, ProcessLookupError):
            return True

    eventually(gone, limit_s=10)
