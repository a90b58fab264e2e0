"""The command `edge-export`: exit codes, one line of error, one document of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exporter.candidate import Candidate
from exporter.cli import main
from exporter.errors import GateRefused
from exporter.report import Report

FIELDS = {
    "bundle_id", "path", "accepted", "profile", "task", "precision", "passes", "candidates", "reference", "engines",
    "seconds",
}  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_an_export_prints_one_document_and_nothing_else(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With --json stdout is one document with the fields of the contract, and stderr stays quiet."""
    output = tmp_path / "tiny"
    result = run(
        "--model", tiny_checkpoint, "--profile", "desktop-cpu", "--output", output, "--precision", "fp32", "--json"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document.keys() >= FIELDS
    assert document["accepted"]
    assert document["path"] == str(output)
    (candidate,) = document["candidates"]
    assert candidate.keys() >= {"name", "accepted", "reason", "accuracy", "weights_bytes", "measured", "zeros"}
    assert candidate["accuracy"].keys() >= {"metric", "reference", "value", "drop_points", "kl", "perplexity_ratio"}
    assert candidate["measured"].keys() == {
        "fixed_ms", "prefill_ms_per_token", "decode_ms_per_token", "peak_rss_bytes",
    }  # fmt: skip
    assert document["reference"]["latency_ms"] > 0
    assert result.stderr == ""
    assert json.loads((output / "report.json").read_bytes())["candidates"] == document["candidates"]


REFUSED = Report(
    profile="desktop-cpu", task="text-generation", passes=(), stages=(), reference_latency_ms=12.3456,
    candidates=(Candidate(name="int4", accepted=False, reason="too far off"),), measured_on="a test", seconds=1.0,
)  # fmt: skip


@pytest.mark.parametrize("as_json", [True, False])
def test_a_refusal_tells_what_was_tried_and_ends_with_3(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate refusal is no failure of the program: document or table say what was tried, stderr why."""

    def refuse(order: object, tell: object, sign: object) -> Report:
        raise GateRefused("no candidate passed", REFUSED)

    monkeypatch.setattr("exporter.pipeline.export", refuse)
    result = run("--model", "m", "--profile", "p", "--output", "o", *(["--json"] if as_json else []))
    assert result.exit_code == 3
    assert result.stderr == "edge-export: no candidate passed\n"
    if as_json:
        document = json.loads(result.stdout)
        assert document.keys() >= FIELDS
        assert (document["accepted"], document["reference"]) == (False, {"latency_ms": 12.346, "estimated": False})
    else:
        assert "too far off" in result.stdout


@pytest.mark.parametrize(
    ("model", "profile", "named"),
    [
        ("no/such/model", "desktop-cpu", "no/such/model does not exist"),
        (".", "desktop-cpu", "not a model directory"),
        ("anything", "jetson-oryn", "unknown profile 'jetson-oryn': nearest are jetson-orin"),
    ],
)
def test_what_is_wrong_is_one_line(model: str, profile: str, named: str, tmp_path: Path) -> None:
    """A user's mistake ends with 1 and one line on stderr."""
    result = run("--model", model, "--profile", profile, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--model", "m", "--profile", "p", "--output", "o", "--max-accuracy-drop", "-1"),
        ("--model", "m", "--profile", "p", "--output", "o", "--precision", "fp4"),
        ("--model", "m", "--profile", "p", "--output", "o", "--prune", "ffn:1.5"),
        ("--model", "m", "--profile", "p", "--output", "o", "--prune", "ffn"),
        ("--model", "m", "--profile", "p", "--output", "o", "--prune", "lottery:0.5"),
        ("--model", "m", "--profile", "p", "--output", "o", "--compress", "1"),
        ("--model", "m", "--profile", "p", "--output", "o", "--compress", "nan"),
        ("--model", "m", "--profile", "p", "--output", "o", "--recover", "-1"),
        ("--model", "m", "--profile", "p", "--output", "o", "--max-accuracy-drop", "nan"),
        ("--model", "m", "--profile", "p", "--output", "o", "--target-latency-ms", "0"),
        ("--model", "m", "--profile", "p", "--output", "o", "--block-size", "48"),
        ("--model", "m", "--profile", "p", "--output", "o", "--task", "poetry"),
        ("--model", "m", "--profile", "p", "--output", "o", "--calibration", "none.jsonl"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    """What the command does not take is refused before any work."""
    assert run(*arguments).exit_code == 2


def test_profiles_are_listed() -> None:
    """--list-profiles needs no other option."""
    result = run("--list-profiles")
    assert result.exit_code == 0
    assert "jetson-thor-t5000" in result.stdout


def test_help_is_quick_and_shows_an_example() -> None:
    """--help shows a command to paste and loads none of the heavy packages."""
    program = (
        "import sys; from exporter.cli import main; main(['--help'], standalone_mode=False); "
        "print(sorted({'torch', 'transformers', 'onnxruntime', 'onnx_ir', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "edge-export --model models/SmolLM2-135M-Instruct.Q4_1.gguf --profile desktop-cpu" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_options_may_stand_in_a_file(tmp_path: Path) -> None:
    """Required ones too; a model that lies beside the file is found there, and what is no option is refused."""
    config = tmp_path / "export.toml"
    (tmp_path / "model").mkdir()
    config.write_text('model = "model"\nprofile = "desktop-cpu"\noutput = "bundle"\nmax-accuracy-drop = 2\n')
    context = main.make_context("edge-export", ["--config", str(config), "--precision", "int8"])
    given = {name: context.params[name] for name in ("model", "output", "max_accuracy_drop_points", "precision")}
    assert given == {
        "model": str(tmp_path / "model"),
        "output": tmp_path / "bundle",
        "max_accuracy_drop_points": 2.0,
        "precision": "int8",
    }
    config.write_text('broker = "mqtts://h"')
    done = run("--config", config)
    assert done.exit_code == 1
    assert "'broker' is no option; known are allow-pickle, block-size" in done.stderr
