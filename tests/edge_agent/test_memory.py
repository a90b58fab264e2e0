"""Free memory as the system tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.memory import available_bytes

MIB = 2**20


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A machine with 1 GiB left, this process in a service of it without a limit."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 1048576 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/edge.service\n")
    group(tmp_path, "system.slice/edge.service", "max", 100 * MIB)
    return tmp_path


def group(system: Path, name: str, limit: str, used: int, files: int = 0) -> None:
    folder = system / "cgroup" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - files}\ninactive_file {files}\n")


def free(system: Path) -> int | None:
    return available_bytes(system / "proc", system / "cgroup")


def test_memory_is_told_in_bytes() -> None:
    """Some, and no more than the machine has."""
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    left = available_bytes()
    assert left is not None
    assert 2**20 < left <= total


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    """None, not a guess."""
    assert free(tmp_path) is None


def test_without_a_limit_the_machine_counts(system: Path) -> None:
    """`max` is no number."""
    assert free(system) == 1024 * MIB


def test_the_limit_of_a_unit_counts(system: Path) -> None:
    """Less what it uses, but files that are only kept because there is room can be dropped."""
    group(system, "system.slice/edge.service", str(500 * MIB), 400 * MIB, files=50 * MIB)
    assert free(system) == 150 * MIB


def test_the_limit_of_a_slice_counts_too(system: Path) -> None:
    """The smallest of all groups around this process."""
    group(system, "system.slice/edge.service", str(900 * MIB), 400 * MIB)
    group(system, "system.slice", str(700 * MIB), 500 * MIB)
    assert free(system) == 200 * MIB


def test_a_container_sees_its_own_group_as_the_root(system: Path) -> None:
    """There the path is `/`, and the files lie at the root of the mount."""
    (system / "proc/self/cgroup").write_text("0::/\n")
    group(system, ".", str(300 * MIB), 290 * MIB)
    assert free(system) == 10 * MIB


def test_what_is_over_its_limit_has_nothing(system: Path) -> None:
    """Not less than nothing, while the kernel pushes out."""
    group(system, "system.slice/edge.service", str(100 * MIB), 120 * MIB)
    assert free(system) == 0


def test_a_machine_without_unified_groups(system: Path) -> None:
    """Version 1 has no line with an empty list of controllers."""
    (system / "proc/self/cgroup").write_text("4:memory:/user\n1:cpu:/\n")
    assert free(system) == 1024 * MIB
