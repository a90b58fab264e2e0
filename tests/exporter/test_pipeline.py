"""The story of an export: what is chosen, what is refused, and what is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_profiles import profile as profiles
from edge_agent.bench import Cost
from edge_agent.bundle import open_bundle
from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.sampling import greedy
from exporter import pipeline
from exporter.errors import GateRefused, OutputError
from exporter.pipeline import Order, choose, export
from exporter.report import Candidate, answer_ms
from tests.exporter.conftest import byte_tokenizer

COST = Cost(
    load_ms=1, ttft_ms=1, fixed_ms=2, prefill_ms_per_token=1, decode_ms_per_token=10, peak_rss_bytes=1,
    threads=2, runtime="test",
)  # fmt: skip


def silent(what: str, part: float) -> None:
    """Progress that nobody watches."""


def candidate(name: str, decode_ms: float, weights_bytes: int, *, accepted: bool = True) -> Candidate:
    cost = msgspec.structs.replace(COST, decode_ms_per_token=decode_ms)
    return Candidate(name=name, accepted=accepted, reason="", weights_bytes=weights_bytes, cost=cost)


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
        precision="int8", max_accuracy_drop_points=100.0, calibration=text_file,
    )  # fmt: skip


def test_the_fastest_accepted_candidate_wins() -> None:
    """Speed decides among those that pass; a refused one never wins."""
    tried = [candidate("int4", 5, 90, accepted=False), candidate("int8", 8, 160), candidate("fp32", 20, 540)]
    assert choose(tried).name == "int8"  # type: ignore[union-attr]
    assert choose([tried[0]]) is None


def test_within_three_percent_the_smaller_wins() -> None:
    """Equal speed is broken by size, and beyond 3% it is not equal."""
    assert choose([candidate("big", 10.0, 500), candidate("small", 10.2, 100)]).name == "small"  # type: ignore[union-attr]
    assert choose([candidate("big", 10.0, 500), candidate("small", 10.6, 100)]).name == "big"  # type: ignore[union-attr]


def test_latency_counts_prompt_and_answer() -> None:
    """An answer is the prefill of 37 tokens, which gives the first, and 95 more."""
    assert answer_ms(COST) == 2 + 37 + 95 * 10


def test_the_bundle_holds_what_was_asked_and_says_what_was_done(order: Order) -> None:
    """A fixed precision gives a bundle that opens, names its passes and gives its own samples again; twice the same."""
    report = export(order, silent)
    assert report.accepted
    bundle = open_bundle(order.output)
    manifest = bundle.manifest
    assert manifest.bundle_id == report.bundle_id
    assert [step.name for step in manifest.passes] == ["convert", "quantize"]
    assert manifest.precision == {"embedding": "int8", "linear": "int8", "norm": "fp32", "cache": "fp32"}
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
    strict = msgspec.structs.replace(order, precision="int4", max_accuracy_drop_points=0.0, calibration=None)
    with pytest.raises(GateRefused, match=r"int4: drop of at most .* exceeds 0") as refused:
        export(strict, silent)
    document = refused.value.report.document()
    assert not document["accepted"]
    assert document["bundle_id"] is None
    assert document["candidates"][0]["accuracy"]["drop_bound_points"] > 0
    assert document["reference"]["latency_ms"] > 0
    assert list(order.output.parent.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_whatever_ends_an_export_leaves_nothing(
    stop: type[BaseException], order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the middle, with files staged, an export leaves none."""

    def staged_then_stopped(source: Any, staging: Path) -> None:
        (staging / "fp32").mkdir()
        (staging / "fp32" / "decoder.onnx").write_bytes(b"half")
        raise stop

    monkeypatch.setattr(pipeline, "_converted", staged_then_stopped)
    with pytest.raises(stop):
        export(order, silent)
    assert list(order.output.parent.iterdir()) == []


def test_an_existing_output_is_refused_before_any_work(order: Order) -> None:
    """A bundle is never overwritten, and nobody waits minutes to learn it."""
    order.output.mkdir(parents=True)
    with pytest.raises(OutputError, match="exists already"):
        export(msgspec.structs.replace(order, model="no-such-model"), silent)


def test_what_does_not_fit_is_refused_with_the_arithmetic(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Weights and cache together are held against the profile's memory, and precisions against what it runs."""
    from edge_agent.manifest import CacheLayout, Graph
    from exporter.source import open_source

    source = open_source(str(tiny_checkpoint))
    cache = CacheLayout(layers=2, kv_heads=2, head_dim=16, dtype="float32")
    graph = Graph(path="model/decoder.onnx", dialect="ort", inputs=(), outputs=(), cache=cache)
    built = pipeline._Built(
        name="int4", directory=tmp_path, graph=graph, weights_bytes=5_000_000_000, precision={}, passes=()
    )
    nano = profiles.load("jetson-orin-nano-4gb")
    why = pipeline._misfit(nano, built, source)
    assert why == "5000 MB of weights + 0 MB of cache for 256 positions = 5000 MB, jetson-orin-nano-4gb has 4295 MB"
    assert pipeline._misfit(nano, msgspec.structs.replace(built, weights_bytes=10**9), source) is None
    odd = msgspec.structs.replace(built, name="fp4")
    assert "not fp4" in (pipeline._misfit(nano, odd, source) or "")
