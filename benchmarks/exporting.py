"""Every optimization of the exporter on SmolLM2 and MiniLM: what it costs in accuracy, and what it gains.

    python benchmarks/exporting.py [--only NAME]...

Runs `edge-export` once for each experiment, as a user would, and puts the figures of its JSON document into the tables
of docs/exporting.md, between the marks that stand there. Speeds are ratios to the fp32 graph of the same run. The
budget is wide open: what a method costs is the question here, not whether it passes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "exporting.md"
RESULTS: Final = ROOT / "bundles" / "bench-export.json"  # what was measured so far: an experiment may be run anew alone
GENERATOR: Final = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER: Final = ROOT / "models" / "all-MiniLM-L6-v2"


class Experiment(NamedTuple):
    """One call of `edge-export`; `stages` tells that the fp32 graphs after each pass are what is shown."""

    name: str
    model: Path
    options: tuple[str, ...]
    stages: bool = False


EXPERIMENTS: Final = (
    Experiment("auto", GENERATOR, ("--max-accuracy-drop", "1")),
    Experiment("int4, block 32", GENERATOR, ("--precision", "int4")),
    Experiment("int4, block 64", GENERATOR, ("--precision", "int4", "--quantizer", "gptq", "--block-size", "64")),
    Experiment("int4, block 128", GENERATOR, ("--precision", "int4", "--quantizer", "gptq", "--block-size", "128")),
    Experiment("mixed", GENERATOR, ("--precision", "mixed")),
    Experiment("magnitude", GENERATOR, ("--prune", "magnitude:0.5", "--precision", "fp32"), stages=True),
    Experiment("wanda", GENERATOR, ("--prune", "wanda:0.5", "--precision", "fp32"), stages=True),
    Experiment("2:4", GENERATOR, ("--prune", "2:4", "--precision", "fp32"), stages=True),
    Experiment("ffn", GENERATOR, ("--prune", "ffn:0.25", "--recover", "60", "--precision", "fp32"), stages=True),
    Experiment("heads", GENERATOR, ("--prune", "heads:0.33", "--precision", "fp32"), stages=True),
    Experiment("layers", GENERATOR, ("--prune", "layers:0.1", "--precision", "fp32"), stages=True),
    Experiment("compress", GENERATOR, ("--compress", "1.25", "--recover", "30", "--precision", "fp32"), stages=True),
    Experiment("encoder", ENCODER, ("--precision", "auto")),
)


def run(experiment: Experiment) -> dict[str, Any]:
    """The document of one export. Raises SystemExit with the command's own words if it fails."""
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        options = ["--max-accuracy-drop", "100", *experiment.options]
        command = [str(Path(sys.executable).with_name("edge-export")), "--model", str(experiment.model)]
        command += ["--profile", "desktop-cpu", "--json", "--output", f"{folder}/bundle", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{experiment.name}: {done.stderr.strip()}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def rows(experiment: Experiment, document: dict[str, Any]) -> list[str]:
    """Markdown rows of what this experiment tried, beside its fp32 graph."""
    fp32 = document["stages"][0]
    shown = document["stages"][1:] if experiment.stages else document["candidates"]
    told = [_row(experiment, one, fp32) for one in shown]
    return [*told[:1], *(row.replace("| ", "| ... then ", 1) for row in told[1:])] if experiment.stages else told


def _row(experiment: Experiment, one: dict[str, Any], fp32: dict[str, Any]) -> str:
    accuracy = one["accuracy"]
    low, high = accuracy["drop_low_points"], accuracy["drop_bound_points"]
    step = "decode_ms_per_token" if experiment.model == GENERATOR else "prefill_ms_per_token"
    cells = (
        f"{one['name'].removeprefix('fp32 after ')}{_block(experiment)}",
        f"{one['weights_bytes'] / 1e6:.0f}",
        "" if one["zeros"] is None else f"{100 * one['zeros']:.0f}%",
        f"{accuracy['value']:.1f}",
        f"{accuracy['drop_points']:.2f} ({low:.2f} to {high:.2f})",
        "" if accuracy["kl"] is None else f"{accuracy['kl']:.4f}",
        "" if accuracy["perplexity_ratio"] is None else f"{accuracy['perplexity_ratio']:.2f}",
        f"{fp32['measured'][step] / one['measured'][step]:.2f}",
        f"{fp32['latency_ms'] / one['latency_ms']:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _block(experiment: Experiment) -> str:
    return f", {experiment.name.split(', ')[1]}" if ", " in experiment.name else ""


def write(results: dict[str, dict[str, Any]]) -> None:
    """Put the tables where the page has its marks."""
    page = PAGE.read_text("utf-8")
    for mark, model in (("generator", GENERATOR), ("encoder", ENCODER)):
        table = [row for one in EXPERIMENTS if one.model == model and one.name in results
                 for row in rows(one, results[one.name])]  # fmt: skip
        before, _, rest = page.partition(f"<!-- {mark}: written by make bench-export -->\n")
        _, _, after = rest.partition(f"<!-- end of {mark} -->")
        heading = "| method | MB | zeros | accuracy | drop, points (95%) | KL | perplexity ratio | step | answer |"
        lines = [heading, "|---|---|---|---|---|---|---|---|---|", *table]
        where = next((results[one.name]["measured_on"] for one in EXPERIMENTS if one.name in results), "")
        text = "\n".join(["", *lines, "", f"Measured on {where}.", ""])
        page = f"{before}<!-- {mark}: written by make bench-export -->\n{text}<!-- end of {mark} -->{after}"
    PAGE.write_text(page, "utf-8")


def main() -> None:
    """Run the experiments, keep each result as it comes, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", action="append", choices=[one.name for one in EXPERIMENTS])
    only = parser.parse_args().only
    results: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    for experiment in EXPERIMENTS:
        if only is None or experiment.name in only:
            print(experiment.name, file=sys.stderr, flush=True)
            results[experiment.name] = run(experiment)
            RESULTS.write_text(json.dumps(results), "utf-8")
            print("\n".join(rows(experiment, results[experiment.name])), flush=True)
    write(results)
    print(json.dumps({name: one["candidates"] for name, one in results.items()}))


if __name__ == "__main__":
    main()
