"""The commands of edge-agent: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge_agent.cli import main
from edge_agent.manifest import Sample
from tests.edge_agent.encoder_bundles import encoder_bundle


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def damaged(tiny_bundle: Path, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "damaged"))
    (root / "model/decoder.onnx").write_bytes(b"other")
    return root


def test_verify_says_one_line(tiny_bundle: Path) -> None:
    """A good bundle: its name on stdout, exit code 0."""
    done = run("verify", tiny_bundle)
    assert done.exit_code == 0
    assert done.stdout.startswith("tiny-desktop-cpu-")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command", [["verify"], ["inspect"], ["bench", "--bundle"], ["eval", "--text", __file__, "--bundle"]]
)
def test_a_bad_bundle_is_one_line_on_stderr(command: list[str], damaged: Path) -> None:
    """Exit code 1, nothing on stdout, no traceback, the file named."""
    done = run(*command, damaged)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "model/decoder.onnx" in done.stderr


def test_inspect_shows_the_manifest(tiny_bundle: Path) -> None:
    """As rows for a reader, or as the manifest itself in JSON."""
    shown = run("inspect", tiny_bundle)
    assert shown.exit_code == 0
    assert "random weights" in shown.stdout
    printed = json.loads(run("inspect", tiny_bundle, "--json").stdout)
    assert printed == json.loads((tiny_bundle / "manifest.json").read_bytes())


FIELDS = {
    "load_ms",
    "ttft_ms",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "decode_ms_per_token",
    "peak_rss_bytes",
    "weights_bytes",
    "roofline_fraction",
    "runtime",
    "threads",
}


def test_bench_prints_its_fields(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the agreed fields in JSON, and all of them for a reader."""
    monkeypatch.setattr("edge_agent.bench.READ_BYTES", 2**24)
    options = ("--threads", "1", "--prompt-tokens", "4", "--new-tokens", "4")
    document = json.loads(run("bench", "--bundle", tiny_bundle, *options, "--json").stdout)
    assert set(document) == FIELDS
    assert document["threads"] == 1
    shown = run("bench", "--bundle", tiny_bundle, *options).stdout
    assert {line.split()[0] for line in shown.splitlines()} == FIELDS | {"bundle"}


def test_eval_scores_text(tiny_bundle: Path, tmp_path: Path) -> None:
    """Tokens, accuracy in percent and perplexity."""
    (tmp_path / "text.txt").write_text("The capital of France is Paris. " * 20)
    done = run("eval", "--bundle", tiny_bundle, "--text", tmp_path / "text.txt", "--threads", "1", "--json")
    document: dict[str, Any] = json.loads(done.stdout)
    assert set(document) == {"tokens", "next_token_accuracy", "perplexity"}
    assert document["tokens"] > 50
    assert done.stderr == ""


def test_eval_asks_questions(tiny_bundle: Path, tmp_path: Path) -> None:
    """Random weights know nothing, but they are asked."""
    rows = ['{"question": "Capital of France?", "answers": ["Paris"]}', '{"question": "?", "answers": ["zzzz"]}']
    (tmp_path / "qa.jsonl").write_text("\n".join(rows))
    done = run("eval", "--bundle", tiny_bundle, "--qa", tmp_path / "qa.jsonl", "--threads", "1", "--json")
    assert json.loads(done.stdout) == {"questions": 2, "correct": 0, "accuracy": 0.0}


def test_eval_wants_one_of_text_and_questions(tiny_bundle: Path) -> None:
    """Neither, or both, is wrong usage: exit code 2."""
    for options in ([], ["--text", "a", "--qa", "b"]):
        done = run("eval", "--bundle", tiny_bundle, *options)
        assert done.exit_code == 2
        assert "give one of --text, --qa" in done.stderr


def test_eval_names_a_file_that_is_missing(tiny_bundle: Path) -> None:
    """One line, exit code 1."""
    done = run("eval", "--bundle", tiny_bundle, "--text", "/nowhere/text.txt")
    assert done.exit_code == 1
    assert "/nowhere/text.txt" in done.stderr


def test_help_has_examples_and_needs_no_runtime() -> None:
    """`--help` of every command works where neither ONNX Runtime nor tokenizers nor Jinja is installed."""
    block = "import sys\nfor name in ('onnxruntime', 'tokenizers', 'jinja2'): sys.modules[name] = None\n"
    for command in ([], *([name] for name in main.commands)):
        script = f"{block}from edge_agent.cli import main\nmain([*{command!r}, '--help'], prog_name='edge-agent')"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "Example:" in done.stdout


def test_an_encoder_bundle_is_verified_and_shown(tmp_path: Path) -> None:
    """`verify` and `inspect` do not care what a bundle does; `inspect` says its labels and its longest text."""
    bundle = encoder_bundle(tmp_path, "text-classification", {"good": (1.0, 0.0)}, labels=("pos", "neg"))
    assert run("verify", bundle).exit_code == 0
    shown = run("inspect", bundle).stdout
    assert "text-classification" in shown
    assert "at most 16 tokens, labels pos, neg" in shown


def test_eval_scores_labels_and_samples(tmp_path: Path) -> None:
    """Of an encoder bundle: how many labels are right, and whether it gives what it gave."""
    bundle = encoder_bundle(
        tmp_path,
        "text-classification",
        {"good": (3.0, 0.0), "bad": (0.0, 3.0)},
        labels=("pos", "neg"),
        samples=[Sample(prompt="good", output=(1.0, 0.0))],
    )
    (tmp_path / "rows.jsonl").write_text('{"text": "good", "label": "pos"}\n{"text": "bad", "label": "pos"}\n')
    done = run("eval", "--bundle", bundle, "--labelled", tmp_path / "rows.jsonl", "--threads", "1", "--json")
    assert json.loads(done.stdout) == {"texts": 2, "correct": 1, "accuracy": 50.0}
    done = run("eval", "--bundle", bundle, "--samples", "--threads", "1", "--json")
    assert json.loads(done.stdout)["cosine"] == 1.0
    refused = run("eval", "--bundle", bundle, "--text", __file__)
    assert refused.exit_code == 1
    assert "text-classification writes no text" in refused.stderr


def test_eval_compares_the_samples_of_a_decoder(make_bundle: Callable[..., Path]) -> None:
    """Tokens and how many are equal."""
    bundle = make_bundle(samples=(Sample(prompt="What?", token_ids=(5, 6)),))
    told = json.loads(run("eval", "--bundle", bundle, "--samples", "--threads", "1", "--json").stdout)
    assert (told["samples"], told["tokens"]) == (1, 2)
    assert told["cosine"] is None


def test_bench_of_an_encoder_shows_no_decoding(tmp_path: Path) -> None:
    """What speaks of decoding is a dash for a reader."""
    bundle = encoder_bundle(tmp_path, "feature-extraction", {"good": (1.0, 0.0)})
    lines = run("bench", "--bundle", bundle, "--threads", "1").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("decode_", "roofline"))] == ["-"] * 3


@pytest.mark.parametrize(("key", "value"), [("api-key-file", '"keys"'), ("remote-margin-ms", "50.0")])
def test_a_file_is_held_to_what_goes_together(tmp_path: Path, key: str, value: str) -> None:
    """What does nothing without --listen is refused wherever it was said, also where it is the default."""
    config = tmp_path / "node.toml"
    config.write_text(f'bundle = "none"\n{key} = {value}\n')
    result = run("serve", "--config", config)
    assert result.exit_code == 2
    assert f"--{key} does nothing without --listen" in result.stderr
