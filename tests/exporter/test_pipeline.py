"""The story of an export: what is chosen, what is refused, and what is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.bundle import open_bundle
from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.sampling import greedy
from exporter import pipeline
from exporter.errors import CalibrationError, GateRefused, OrderError, OutputError
from exporter.order import Order
from exporter.pipeline import export, plan
from tests.exporter.conftest import byte_tokenizer, encoder_checkpoint


def silent(what: str, part: float) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough text to score, so that no test samples it."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    rows = [{"text": f"{n} is followed by {n + 1}, and that by {n + 2}. " * 3} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def order(tiny_checkpoint: Path, text_file: Path, tmp_path: Path) -> Order:
    """An int8 export of the tiny checkpoint, with a budget that a random model keeps."""
    return Order(
        model=str(tiny_checkpoint), profile="desktop-cpu", output=tmp_path / "bundles" / "tiny",
        precision="int8", max_accuracy_drop_points=100.0, evaluation=text_file,
    )  # fmt: skip


def test_the_bundle_holds_what_was_asked_and_says_what_was_done(order: Order) -> None:
    """A fixed precision gives a bundle that opens, names its passes and gives its own samples again; twice the same."""
    report = export(order, silent)
    assert report.accepted
    bundle = open_bundle(order.output)
    manifest = bundle.manifest
    assert manifest.bundle_id == report.bundle_id
    told = json.loads((order.output / "report.json").read_bytes())
    assert (told["bundle_id"], told["path"]) == (report.bundle_id, str(order.output))
    assert report.bundle_id in (order.output / "report.html").read_text("utf-8")  # type: ignore[operator]
    assert [step.name for step in manifest.passes] == ["convert", "quantize"]
    assert manifest.precision == {
        "embedding": "int8", "head": "int8", "linear": "int8", "norm": "fp32", "cache": "fp32",
    }  # fmt: skip
    assert manifest.model.licence == "apache-2.0"
    assert manifest.generation.stop_ids == (257,)
    assert manifest.accuracy is not None
    assert manifest.accuracy.count >= 4000
    assert not manifest.measured.estimated
    assert [path.name for path in order.output.parent.iterdir()] == ["tiny"]
    decoder = Decoder(order.output / manifest.graphs[0].path, manifest.graphs[0], context=256)
    ids = byte_tokenizer().encode(f"<s>user\n{manifest.samples[0].prompt}</s>\n<s>assistant")
    again = decoder.generate(ids, choose=greedy, max_tokens=16, stop_ids=(257,))
    assert tuple(again) == manifest.samples[0].token_ids

    second = export(msgspec.structs.replace(order, output=order.output.parent / "again"), silent)
    assert second.bundle_id == report.bundle_id


def test_a_candidate_that_lies_is_refused_and_nothing_is_left(order: Order) -> None:
    """With no points to lose, a random model at 4 bits is refused; its report says why, and no file remains."""
    strict = msgspec.structs.replace(
        order, precision="int4", quantizer="round-to-nearest", max_accuracy_drop_points=0.0, evaluation=None
    )
    with pytest.raises(GateRefused, match=r"int4-round-to-nearest: drop of at most .* exceeds 0") as refused:
        export(strict, silent)
    document = refused.value.report.document()
    assert not document["accepted"]
    assert document["bundle_id"] is None
    assert document["candidates"][0]["accuracy"]["drop_bound_points"] > 0
    assert document["reference"]["latency_ms"] > 0
    assert not order.output.parent.exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_whatever_ends_an_export_leaves_nothing(
    stop: type[BaseException], order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the middle, with files staged, an export leaves none."""

    def staged_then_stopped(order: Order, source: Any, staging: Path, tell: object) -> None:
        (staging / "fp32").mkdir()
        (staging / "fp32" / "decoder.onnx").write_bytes(b"half")
        raise stop

    monkeypatch.setattr(pipeline, "Generation", staged_then_stopped)
    with pytest.raises(stop):
        export(order, silent)
    assert not order.output.parent.exists()


def test_an_existing_output_is_refused_before_any_work(order: Order) -> None:
    """A bundle is never overwritten, and nobody waits minutes to learn it."""
    order.output.mkdir(parents=True)
    with pytest.raises(OutputError, match="exists already"):
        export(msgspec.structs.replace(order, model="no-such-model"), silent)


def test_a_precision_that_the_device_lacks_is_refused_before_any_work(order: Order) -> None:
    """Orin's GPU has no FP8, a CPU gains nothing from fp16; nobody waits for the checkpoint to learn it."""
    for profile, precision, named in (
        ("jetson-orin", "fp8", "SM 8.7 has no FP8"),
        ("desktop-cpu", "fp16", "desktop-cpu runs int4, int8, fp32, not fp16"),
    ):
        changed = msgspec.structs.replace(order, profile=profile, precision=precision, model="no-such-model")
        with pytest.raises(OrderError, match=named):
            export(changed, silent)


def test_a_dry_run_says_what_would_be_tried_and_writes_nothing(order: Order) -> None:
    """Every candidate with the bytes that its weights would take."""
    report = plan(msgspec.structs.replace(order, precision="auto"))
    assert [one.name for one in report.candidates] == ["int4-gptq", "mixed-gptq", "int8", "fp32"]
    sizes = [one.weights_bytes for one in report.candidates]
    assert all(sizes)
    assert sizes == sorted(sizes)  # type: ignore[type-var]
    assert not report.accepted
    assert not order.output.parent.exists()
    json.dumps(report.document())


def test_a_dry_run_reads_the_files_too(order: Order, tmp_path: Path) -> None:
    """What can be wrong with them is told before the work."""
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(CalibrationError, match="is empty"):
        plan(msgspec.structs.replace(order, evaluation=empty))
    encoder = encoder_checkpoint(tmp_path / "encoder", "BertModel")
    changed = msgspec.structs.replace(order, model=str(encoder), evaluation=None, calibration=None, precision="auto")
    names = [one.name for one in plan(changed).candidates]
    assert names == ["int4-gptq", "mixed-gptq", "int8-dynamic", "int8-weights", "fp32"]


def test_passes_change_the_graph_and_are_each_measured(order: Order) -> None:
    """After pruning and sharing of weights each stage has its own size, zeros and accuracy; the bundle is the last."""
    changed = msgspec.structs.replace(
        order,
        precision="fp32",
        prune=("magnitude:0.5", "magnitude:0.5"),
        compress=2.0,
        evaluation=order.evaluation,
    )
    report = export(changed, silent)
    names = [stage.name for stage in report.stages]
    assert names == [
        "fp32", "fp32 after prune magnitude:0.5", "fp32 after prune magnitude:0.5 (2)", "fp32 after compress 2",
    ]  # fmt: skip
    whole, zeroed, again, shared = report.stages
    assert whole.weights_bytes == zeroed.weights_bytes == again.weights_bytes
    assert zeroed.weights_bytes > shared.weights_bytes  # type: ignore[operator]
    assert zeroed.zeros == pytest.approx(0.5, abs=0.05)
    assert all(stage.cost is not None and stage.accuracy is not None for stage in report.stages)
    manifest = open_bundle(order.output).manifest
    assert [step.name for step in manifest.passes] == ["prune", "prune", "compress", "convert"]
