"""Free memory as the system tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.memory import available_bytes


def test_memory_is_told_in_bytes() -> None:
    """Some, and no more than the machine has."""
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    free = available_bytes()
    assert free is not None
    assert 2**20 < free <= total


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """None, not a guess."""

    def refuse(path: Path) -> str:
        raise OSError("no such file")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert available_bytes() is None
