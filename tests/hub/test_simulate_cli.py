"""`edge-hub simulate` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hub.cli import main

FLEET = """
[network]
median_ms = 30
[[kind]]
name = "k"
count = 3
fixed_ms = 10
prefill_ms_per_token = 1
decode_ms_per_token = 10
"""


@pytest.fixture
def fleet(tmp_path: Path) -> str:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return str(path)


def test_the_json_is_what_design_promises(fleet: str) -> None:
    """One entry for each load, with the figures of each policy."""
    asked = ["simulate", "--trace", "short", "--fleet", fleet, "--questions", "60", "--load", "0.5", "--load", "0.8"]
    ran = CliRunner().invoke(main, [*asked, "--json"])
    assert ran.exit_code == 0, ran.output
    document = json.loads(ran.stdout)
    assert [one["load"] for one in document] == [0.5, 0.8]
    wanted = {"mean_ms", "p50_ms", "p95_ms", "p99_ms", "slo_attainment", "over_oracle"}
    assert {"least-delay", "least-delay-question", "least-delay-fleet", "oracle"} <= set(document[0]["policies"])
    assert all(wanted <= set(figures) for figures in document[0]["policies"].values())


def test_a_table_and_a_plot(fleet: str, tmp_path: Path) -> None:
    """For people."""
    plot = tmp_path / "p.svg"
    asked = ["simulate", "--trace", "short", "--fleet", fleet, "--questions", "60", "--load", "0.5"]
    ran = CliRunner().invoke(main, [*asked, "--policy", "least-delay", "--policy", "oracle", "--plot", str(plot)])
    assert ran.exit_code == 0, ran.output
    assert "load 0.5" in ran.stdout
    assert "oracle" in ran.stdout
    assert plot.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trace", "none.csv"), "none.csv cannot be read as a trace"),
        (("--trace", "short", "--rtt", "none.txt"), "none.txt is no matrix"),
        (("--trace", "short", "--fleet", "none.toml"), "none.toml is no fleet"),
    ],
)
def test_what_cannot_be_used_is_one_line(fleet: str, options: tuple[str, ...], said: str) -> None:
    """Exit code 1, and no traceback."""
    ran = CliRunner().invoke(main, ["simulate", "--load", "0.5", "--fleet", fleet, *options])
    assert ran.exit_code == 1
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_policies_of_the_command_are_those_of_the_simulator() -> None:
    """The names stand in the command so that help costs no import."""
    from hub.simulate_cli import POLICY_NAMES
    from hub.simulator.policies import POLICIES

    assert POLICY_NAMES == POLICIES
