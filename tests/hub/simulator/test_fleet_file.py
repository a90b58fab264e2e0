"""Fleets as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hub.errors import SimulationError
from hub.simulator.fleet_file import read_fleet, read_round_trips, round_trips_ms

ROOT = Path(__file__).resolve().parents[3]
KIND = '[[kind]]\nname = "jetson"\ncount = 3\nfixed_ms = 20\nprefill_ms_per_token = 2\ndecode_ms_per_token = 40\n'


def fleet(tmp_path: Path, more: str = "", kind: str = KIND):  # type: ignore[no-untyped-def]
    path = tmp_path / "fleet.toml"
    path.write_text(kind + more)
    return read_fleet(path)


def test_reference_fleets_are_readable() -> None:
    """Forty machines, the fastest ten times as fast as the slowest."""
    for path in sorted((ROOT / "benchmarks/fleets").glob("unlike-40*.toml")):
        kinds = read_fleet(path).kind
        assert sum(kind.count for kind in kinds) == 40
        speeds = [kind.decode_ms_per_token for kind in kinds]
        assert max(speeds) == 10 * min(speeds)


def test_nodes_are_named_by_their_kind(tmp_path: Path) -> None:
    """And numbered."""
    assert [name for name, _ in fleet(tmp_path).nodes] == ["jetson-000", "jetson-001", "jetson-002"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (KIND, "two kinds have one name"),
        ('[[kind]]\nname = "x"\ncount = 0\n', "fixed_ms|count"),
        ("[network]\nmedian = 3\n", "median"),
        ("[[event]]\nfrom = 0.5\n", "one of slower, link_ms and down"),
        ("[[event]]\nfrom = 0.5\nslower = 2\ndown = true\n", "one of slower, link_ms and down"),
        ("[[event]]\nfrom = 0.5\nuntil = 0.4\ndown = true\n", "not after"),
        ('[[event]]\nfrom = 0.5\ndown = true\nkind = "orin"\n', "kind 'orin', there is jetson"),
        ('[[event]]\nfrom = 0.5\ndown = true\nnode = "jetson-9"\n', "node 'jetson-9'"),
        ("nonsense", "is no fleet"),
    ],
)
def test_what_is_no_fleet_is_refused(tmp_path: Path, more: str, said: str) -> None:
    """With what is wrong in it."""
    with pytest.raises(SimulationError, match=said):
        fleet(tmp_path, more)


def test_round_trips_come_from_the_matrix(tmp_path: Path) -> None:
    """Both ways' mean; sites that a kind names are taken in turn."""
    path = tmp_path / "rtt.txt"
    path.write_text("0 10 20\n30 0 40\n50 60 0\n")
    matrix = read_round_trips(path)
    named = fleet(tmp_path, kind=KIND + "sites = [2, 1]\n")
    assert round_trips_ms(named, matrix, 0, np.random.default_rng(0)).tolist() == [35.0, 20.0, 35.0]
    drawn = round_trips_ms(fleet(tmp_path), matrix, 0, np.random.default_rng(0))
    assert sorted(set(drawn.tolist())) == [20.0, 35.0]
    with pytest.raises(SimulationError, match="the RTT file has 3"):
        round_trips_ms(named, matrix, 3, np.random.default_rng(0))


@pytest.mark.parametrize("text", ["0 1\n", "0 1\n1\n", "0 -1\n1 0\n", "0 nan\n1 0\n", "", "a b\nc d\n"])
def test_what_is_no_matrix_is_refused(tmp_path: Path, text: str) -> None:
    """Square, and no round trip less than nothing."""
    path = tmp_path / "rtt.txt"
    path.write_text(text)
    with pytest.raises(SimulationError):
        read_round_trips(path)


def test_without_a_matrix_round_trips_are_drawn(tmp_path: Path) -> None:
    """By the file; and where it says nothing of it, that is said."""
    drawn = round_trips_ms(fleet(tmp_path, "[network]\nmedian_ms = 40\nsigma = 0\n"), None, 0, np.random.default_rng(0))
    assert drawn.tolist() == [40.0] * 3
    with pytest.raises(SimulationError, match="give an RTT file"):
        round_trips_ms(fleet(tmp_path), None, 0, np.random.default_rng(0))
