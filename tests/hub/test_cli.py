"""`edge-hub`: what is printed, and where, and the exit code."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hub.cli import main
from hub.decision import Decision, Terms
from hub.shares import Rate
from hub.store.records import Records
from tests.hub.rows import record

TERMS = Terms(
    node="a",
    bundle="smol-int4",
    network_ms=1.0,
    wait_ms=2.0,
    fixed_ms=3.0,
    prefill_ms=4.0,
    decode_ms=5.0,
    prompt_tokens=6.0,
    completion_tokens=7.0,
)
DECISION = Decision(device="kitchen", id="1", attempt=1, chosen=TERMS, candidates=(TERMS,), rejected=())


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "fleet.sqlite")
    records = Records(path, "hub")
    records.store(record(id="1", decisions=(DECISION,)), time.time() - 7200)
    records.store(record(id="2", total_ms=50.0, decisions=(DECISION,)), time.time())
    records.close()
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("command", ["report", "explain"])
def test_missing_store(tmp_path: Path, command: str) -> None:
    """A store that is not there: one line on stderr, exit code 1, nothing on stdout."""
    done = run(command, "--store", str(tmp_path / "none.sqlite"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("edge-hub: there is no record store at ")
    assert done.stderr.count("\n") == 1


def test_explain(store: str) -> None:
    """The last question by default, or the one with this id; every term is shown."""
    last, first = run("explain", "--store", store), run("explain", "--store", store, "1")
    assert "kitchen/2: answered by a after 50.0 ms" in last.stdout
    assert "kitchen/1: answered by a after 100.0 ms" in first.stdout
    assert "chosen" in first.stdout
    (decision,) = json.loads(run("explain", "--store", store, "1", "--json").stdout)
    assert decision["candidates"][0]["delay_ms"] == pytest.approx(14.5)


def test_explain_unknown_question(store: str) -> None:
    """One line, exit code 1."""
    done = run("explain", "--store", store, "nope")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "no question 'nope'" in done.stderr


@pytest.mark.parametrize("command", [[], ["report"], ["explain"]])
def test_help(command: list[str]) -> None:
    """Each command explains itself, with an example."""
    done = run(*command, "--help")
    assert done.exit_code == 0
    assert not command or "Example: edge-hub" in done.stdout


@pytest.mark.parametrize("rate", ["0", "5/d", "fast", "-1/s"])
def test_no_rate(rate: str) -> None:
    """A rate that is none is a usage error that shows how to write one."""
    done = run("serve", "--embedded-broker", "1883", "--device-rate", rate)
    assert done.exit_code == 2
    assert "is no rate: write a number" in done.stderr


def test_policy_reaches_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said on the command line is what the hub runs with; without it there is no bound."""
    given: list[tuple[object, ...]] = []
    policy = ("device_rate", "device_in_flight", "fair_shares")
    monkeypatch.setattr("hub.serve.serve", lambda name, **options: given.append(tuple(options[one] for one in policy)))
    said = ("--device-rate", "30/m", "--device-in-flight", "5", "--fair-shares")
    assert run("serve", "--embedded-broker", "1883", *said).exit_code == 0
    assert run("serve", "--embedded-broker", "1883").exit_code == 0
    assert given == [(Rate(30.0, 60.0), 5, True), (None, None, False)]
