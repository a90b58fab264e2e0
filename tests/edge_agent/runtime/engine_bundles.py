"""Bundles that bring a recipe for an engine, around the tiny decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_agent.manifest import Engine, Graph, Sample
from edge_agent.recipe import CACHE_KEY, Check, Recipe, ShapeRanges
from edge_agent.runtime.engine import open_engine
from edge_agent.runtime.sampling import greedy
from hub import wire

QUESTIONS = ("What is the capital of France?", "def answer(question)", "naïve café", "1234567890 times")


def recipe(runtime: Literal["tensorrt", "tensorrt-rtx"], shapes: ShapeRanges, **fields: Any) -> Recipe:
    """For TensorRT 10.3, or TensorRT-RTX of any version."""
    full = runtime == "tensorrt"
    made = Recipe(
        runtime=runtime, tensorrt_at_least="10.3" if full else "1", tensorrt_below="11" if full else "99",
        graph="model/decoder-onnx.onnx", dialect="onnx", precision="fp16", strongly_typed=True, flags=(),
        decomposable_attention=True, shapes=shapes, workspace_bytes=2**28, build_bytes=1000, serve_bytes=1000,
        cache_key=CACHE_KEY, check=Check(samples=8, metric=None, budget_points=None),
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


def entry(made: Recipe, **fields: Any) -> Engine:
    """As a manifest holds it."""
    table = msgspec.to_builtins(made)
    engine = Engine(runtime=made.runtime, compute_capability="8.7", precision="fp16", graph=made.graph, recipe=table)
    return msgspec.structs.replace(engine, **fields)


def samples_of(bundle: Path, tokens: int = 12) -> tuple[Sample, ...]:
    """What the bundle gives here."""
    engine = open_engine(bundle, threads=1)
    found = []
    for question in QUESTIONS:
        ids = engine.tokenizer.encode_question(wire.Question(question=question))
        said = tuple(engine.decoder.generate(ids, choose=greedy, max_tokens=tokens, stop_ids=()))
        found.append(Sample(prompt=question, token_ids=said))
    engine.close()
    return tuple(found)


def engine_bundle(
    make_bundle: Callable[..., Path],
    second: Path,
    graph: Graph,
    ort: Graph,
    made: Recipe,
    *,
    profile: str,
    **fields: Any,
) -> Path:
    """A bundle whose engine is built from the file `second`, which `graph` describes, beside the tiny decoder."""

    def change(staging: Path) -> None:
        (staging / made.graph).write_bytes(second.read_bytes())

    engines = fields.pop("engines", (entry(made),))
    graphs = (ort, msgspec.structs.replace(graph, path=made.graph, dialect=made.dialect))
    return make_bundle(change, profile=profile, graphs=graphs, engines=engines, **fields)
