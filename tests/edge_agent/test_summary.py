"""What a reader is shown of a manifest."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_agent.bundle import open_bundle
from edge_agent.manifest import Accuracy, Engine
from edge_agent.summary import rows


def text_of(*pairs: tuple[str, str]) -> str:
    return "\n".join(f"{name} {value}" for name, value in pairs)


def test_everything_a_reader_asks_is_there(tiny_bundle: Path) -> None:
    """Name, source, licence, passes, cost, files and their hashes; what is unknown is said to be."""
    manifest = open_bundle(tiny_bundle).manifest
    said = text_of(*rows(manifest))
    for words in (manifest.bundle_id, "random weights (Apache-2.0)", "quantize (bits=4, block=32)", "dialect ort"):
        assert words in said
    assert "accuracy not measured" in said
    assert "measured on a test" in said
    assert all(entry.sha256[:12] in said for entry in manifest.files)


def test_accuracy_engines_and_estimates_are_told(tiny_bundle: Path) -> None:
    """The loss and its bound beside the reference; an estimate is not called a measurement."""
    manifest = open_bundle(tiny_bundle).manifest
    accuracy = Accuracy(
        metric="next-token accuracy",
        reference=45.3,
        value=45.0,
        drop_points=0.3,
        drop_low_points=0.0,
        drop_bound_points=0.7,
        budget_points=1.0,
        agreement=98.0,
        kl=0.001,
        perplexity=18.5,
        reference_perplexity=18.3,
        count=4096,
        text="sampled",
    )
    changed = msgspec.structs.replace(
        manifest,
        accuracy=accuracy,
        engines=(Engine(runtime="tensorrt", compute_capability="8.7", precision="fp16", graph="g", recipe={"a": 1}),),
        measured=msgspec.structs.replace(manifest.measured, estimated=True),
        model=msgspec.structs.replace(manifest.model, licence=None),
    )
    said = text_of(*rows(changed))
    for words in (
        "next-token accuracy 45.00, reference 45.30: 0.30 points lost (at most 0.70 with 95% confidence, budget 1.00)",
        "over 4,096 items of sampled",
        "tensorrt for compute capability 8.7: recipe",
        "estimated on a test",
        "licence unknown",
    ):
        assert words in said
