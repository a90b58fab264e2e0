"""`edge-hub report` from the command line."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from hub.cli import main
from hub.decision import Decision, Terms
from hub.store.records import Records
from tests.hub.report.many import many
from tests.hub.rows import record

TERMS = Terms(node="a", bundle="smol-int4", network_ms=1.0, wait_ms=2.0, fixed_ms=3.0, prefill_ms=4.0, decode_ms=5.0,
              prompt_tokens=6.0, completion_tokens=7.0)  # fmt: skip
DECISION = Decision(device="kitchen", id="1", attempt=1, chosen=TERMS, candidates=(TERMS,), rejected=())
HOUR_S = 3600.0


def kept(path: Path, rows: list[tuple[float, dict[str, Any]]]) -> str:
    """A store of rows, each so many seconds ago."""
    records, now_s = Records(str(path), "hub"), time.time()
    for ago_s, changes in rows:
        records.store(record(**changes), now_s - ago_s)
    records.close()
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> str:
    rows: list[tuple[float, dict[str, Any]]] = [
        (2 * HOUR_S, {"id": "1", "decisions": (DECISION,)}),
        (120.0, {"id": "2", "total_ms": 50.0, "network_ms": 5.0, "node": "b", "device": "=door", "model": "qwen"}),
        (60.0, {"id": "3", "outcome": "deadline", "total_ms": 30_000.0}),
    ]
    return kept(tmp_path / "fleet.sqlite", rows)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", *arguments])


def document(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--format", "json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_json(store: str) -> None:
    """One document on stdout; `--since` limits it, `--slo-ms` and `--slo-target` are its objective."""
    whole = document("--store", store, "--slo-ms", "60", "--slo-target", "50%")
    fleet = whole["fleet"]
    assert (fleet["questions"], fleet["slo_ms"], fleet["slo_attainment"]) == (3, 60.0, pytest.approx(1 / 3))
    assert fleet["budget"] == {"target": 0.5, "allowed": 1.5, "missed": 2, "left": pytest.approx(-1 / 3, abs=1e-3)}
    recent = document("--store", store, "--since", "1h")
    assert (recent["fleet"]["questions"], recent["window"]["seconds"]) == (2, 3600.0)


def test_table_is_the_default(store: str) -> None:
    """For people, on stdout."""
    done = run("--store", store)
    assert done.exit_code == 0
    assert "3 questions" in done.stdout
    assert "question kitchen/1 attempt 1 -> a" in done.stdout


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (("--until", "1h"), {"1"}),
        (("--since", "90s"), {"3"}),
        (("--since", "1h", "--until", "90s"), {"2"}),
        (("--node", "b"), {"2"}),
        (("--node", "b", "--node", "a"), {"1", "2", "3"}),
        (("--device", "=door"), {"2"}),
        (("--model", "smol"), {"1", "3"}),
        (("--outcome", "deadline"), {"3"}),
        (("--outcome", "answered", "--node", "a"), {"1"}),
        (("--node", "nobody"), set()),
    ],
)
def test_filters(store: str, options: tuple[str, ...], ids: set[str]) -> None:
    """Each narrows the report to the questions that it names; the slowest are among them."""
    found = document("--store", store, *options)
    assert found["fleet"]["questions"] == len(ids)
    assert {one["id"] for one in found["slowest"]} == ids - {"3"}


def test_times_may_be_dates(store: str) -> None:
    """Since long ago, until tomorrow."""
    assert document("--store", store, "--since", "2020-01-01T00:00:00Z")["fleet"]["questions"] == 3
    assert document("--store", store, "--until", "2020-01-01")["fleet"]["questions"] == 0


@pytest.mark.parametrize("count", [0, 1, 5])
def test_slowest(store: str, count: int) -> None:
    """As many as were asked for, with their decisions; of a window that is not the first rows of the store, too."""
    found = document("--store", store, "--slowest", str(count))["slowest"]
    assert [one["id"] for one in found] == ["1", "2"][:count]
    if found:
        assert found[0]["decisions"][0].startswith("question kitchen/1 attempt 1 -> a")
    assert [one["id"] for one in document("--store", store, "--since", "1h")["slowest"]] == ["2"]


def test_against(tmp_path: Path) -> None:
    """The same window a day earlier: what got slower is told, and where."""
    rows = []
    for ago_s, slow in ((86_400.0, 1.0), (0.0, 2.0)):
        for number, row in enumerate(many(600, seed=int(slow), slow=slow)):
            fields = {name: getattr(row, name) for name in record().__struct_fields__}
            rows.append((ago_s + 3500.0 - number * 5.0, fields))
    found = document("--store", kept(tmp_path / "two.sqlite", rows), "--since", "1h", "--against", "1d")["against"]
    fleet = found["groups"][0]
    assert (fleet["kind"], fleet["verdict"], fleet["stage"]) == ("fleet", "slower", "decode")
    assert (found["questions"], found["comparisons"]) == (600, 3 * len(found["groups"]))


def test_csv(store: str, tmp_path: Path) -> None:
    """One row for each group, in a file where one is named; no name is a formula."""
    output = tmp_path / "report.csv"
    done = run("--store", store, "--format", "csv", "--output", str(output))
    assert (done.exit_code, done.stdout) == (0, "")
    rows = list(csv.DictReader(io.StringIO(output.read_bytes().decode(), newline="")))
    names = [("fleet", ""), ("node", "a"), ("node", "b"), ("model", "qwen"), ("model", "smol")]
    assert [(row["kind"], row["name"]) for row in rows] == [*names, ("device", "'=door"), ("device", "kitchen")]


def test_html(store: str, tmp_path: Path) -> None:
    """A page, on stdout or in a file."""
    printed = run("--store", store, "--format", "html")
    assert printed.stdout.lstrip().startswith("<!DOCTYPE html>")
    output = tmp_path / "report.html"
    assert run("--store", store, "--format", "html", "--output", str(output)).exit_code == 0
    assert output.read_text("utf-8").rstrip().endswith("</html>")


def test_parquet(store: str, tmp_path: Path) -> None:
    """The questions of the window, one row each; into a pipe as well."""
    output = tmp_path / "questions.parquet"
    assert run("--store", store, "--since", "1h", "--format", "parquet", "--output", str(output)).exit_code == 0
    assert parquet.read_table(output).column("outcome").to_pylist() == ["answered", "deadline"]
    piped = run("--store", store, "--format", "parquet").stdout_bytes
    assert parquet.read_table(io.BytesIO(piped)).num_rows == 3


def test_table_into_a_file(store: str, tmp_path: Path) -> None:
    """The same as is printed."""
    output = tmp_path / "report.txt"
    assert run("--store", store, "--output", str(output)).stdout == ""
    assert output.read_text("utf-8") == run("--store", store).stdout


@pytest.mark.parametrize("form", ["table", "json", "csv", "html", "parquet"])
def test_empty_window(store: str, form: str) -> None:
    """A window without questions is no error in any format."""
    against = () if form == "parquet" else ("--against", "1d")
    done = run("--store", store, "--since", "0s", "--format", form, *against)
    assert done.exit_code == 0, done.output
    said = {"table": b"nothing to report", "json": b'"questions":0', "csv": b"fleet,,0", "html": b"Nothing to report"}
    assert said.get(form, b"PAR1") in done.stdout_bytes


@pytest.mark.parametrize("when", ["1", "h", "1w", "-1h", "1.5h", "NaNs", "", "2026-99-01"])
@pytest.mark.parametrize("option", ["--since", "--until", "--against"])
def test_no_time(store: str, option: str, when: str) -> None:
    """What is no duration or date is a usage error that says how to write one."""
    done = run("--store", store, option, when)
    assert done.exit_code == 2
    assert "is no duration" in done.stderr or "is no time" in done.stderr


@pytest.mark.parametrize("target", ["99", "0%", "101%", "-1%", "x%", "%", "nan%", ""])
def test_no_target(store: str, target: str) -> None:
    """What is no share is a usage error."""
    done = run("--store", store, "--slo-target", target)
    assert done.exit_code == 2
    assert "is no share" in done.stderr


def test_windows_that_make_no_sense(store: str) -> None:
    """Each is a usage error that says what to do."""
    done = run("--store", store, "--since", "1h", "--until", "2h")
    assert (done.exit_code, "--since is after --until" in done.stderr) == (2, True)
    done = run("--store", store, "--against", "1d")
    assert (done.exit_code, "--against needs --since" in done.stderr) == (2, True)
    done = run("--store", store, "--since", "7d", "--against", "1d")
    assert (done.exit_code, "--against is shorter" in done.stderr) == (2, True)
    done = run("--store", store, "--since", "1h", "--against", "1d", "--format", "parquet")
    assert (done.exit_code, "questions of one window" in done.stderr) == (2, True)


def test_parquet_is_not_for_a_terminal(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused there, with what to add."""
    monkeypatch.setattr("hub.report_cli._is_terminal", lambda: True)
    done = run("--store", store, "--format", "parquet")
    assert (done.exit_code, "--output F.parquet" in done.stderr) == (2, True)


def test_a_file_that_cannot_be_written(store: str, tmp_path: Path) -> None:
    """One line, exit code 1."""
    done = run("--store", store, "--output", str(tmp_path / "none" / "report.txt"))
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "cannot be written (No such file or directory)" in done.stderr
