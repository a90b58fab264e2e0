"""Policies as curves."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from hub.errors import SimulationError
from hub.simulator.plot import write_plot
from hub.simulator.simulate import simulate
from tests.hub.simulator.test_simulate import PLAN

SMALL = msgspec.structs.replace(PLAN, policies=("least-delay", "oracle"), trace=PLAN.trace.of(60), loads=(0.5, 0.8))


def test_two_charts_that_need_nothing_else(tmp_path: Path) -> None:
    """One file of SVG, every policy in its legend, nothing fetched from anywhere."""
    write_plot(list(simulate(SMALL)), tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    assert len(list(ET.fromstring(text))) == 2  # what we have written ourselves
    assert text.count("least-delay") >= 2
    assert "oracle" in text
    assert "<script" not in text
    assert "@import" not in text


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """Is named."""
    with pytest.raises(SimulationError, match="cannot be written"):
        write_plot(list(simulate(SMALL)), tmp_path / "none" / "p.svg")
