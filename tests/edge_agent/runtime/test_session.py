"""Opening sessions: exactly what was asked for, or an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import BundleError, RuntimeUnavailable
from edge_agent.manifest import Graph
from edge_agent.runtime import session as sessions
from edge_agent.runtime.session import CPU_PROVIDER, default_threads, open_session, runtime_name


def test_a_session_has_the_threads_and_the_provider(tiny_graph: tuple[Path, Graph]) -> None:
    """What was asked for is what the session says."""
    session = open_session(tiny_graph[0], threads=1)
    assert session.get_providers() == [CPU_PROVIDER]
    assert session.get_session_options().intra_op_num_threads == 1


def test_a_provider_that_is_not_there_is_no_other(tiny_graph: tuple[Path, Graph]) -> None:
    """One that was not compiled in is refused before the graph is read, and what to install is said."""
    with pytest.raises(RuntimeUnavailable, match=r"built without CUDAExecutionProvider: .*edgefleet\[agent-gpu\]"):
        open_session(tiny_graph[0].with_name("not there"), provider="CUDAExecutionProvider")


def test_a_session_that_fell_back_is_refused(tiny_graph: tuple[Path, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled in is not usable: ONNX Runtime falls back to the CPU without an error, which the session tells."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU_PROVIDER])
    with (
        pytest.warns(UserWarning, match="not in available"),
        pytest.raises(RuntimeUnavailable, match="would fall back to CPUExecutionProvider"),
    ):
        open_session(tiny_graph[0], provider="CUDAExecutionProvider")


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    """One line names it."""
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"bad\.onnx: ONNX Runtime does not take this graph") as refusal:
        open_session(tmp_path / "bad.onnx")
    assert "\n" not in str(refusal.value)


def test_without_onnx_runtime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the base is installed, the message says what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match=r"install edgefleet\[agent\]"):
        open_session(tmp_path / "any.onnx")


def cpu(folder: Path, number: int, core: int, package: int = 0) -> None:
    topology = folder / f"cpu{number}" / "topology"
    topology.mkdir(parents=True)
    (topology / "core_id").write_text(f"{core}\n")
    (topology / "physical_package_id").write_text(f"{package}\n")


@pytest.mark.parametrize(
    ("cores", "allowed", "threads"),
    [
        ([(0, 0), (1, 0), (0, 0), (1, 0)], {0, 1, 2, 3}, 2),  # two cores of two threads each
        ([(0, 0), (1, 0), (0, 0), (1, 0)], {0, 2}, 1),  # only one of them is ours
        ([(0, 0), (0, 1)], {0, 1}, 2),  # core 0 of two packages
        ([], {0, 1, 2}, 3),  # nothing known
    ],
)
def test_the_default_is_one_thread_for_each_physical_core(
    cores: list[tuple[int, int]],
    allowed: set[int],
    threads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Siblings of a core count once, cores this process may not use not at all."""
    for number, (core, package) in enumerate(cores):
        cpu(tmp_path, number, core, package)
    monkeypatch.setattr(sessions, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(sessions.os, "sched_getaffinity", lambda pid: allowed, raising=False)
    assert default_threads() == threads


def test_the_runtime_says_its_version() -> None:
    """Name, version and provider."""
    import onnxruntime

    name: Any = runtime_name()
    assert name == f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"
