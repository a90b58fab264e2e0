"""Which engine does the device run, and from which graph?

For a desktop GPU an engine is built here; for a Jetson the bundle carries the graph and a recipe, since no builder for
it runs elsewhere. Either way the graph, in the dialect that the device's TensorRT parses, is scored in ONNX Runtime
first: a surrogate, and called so. Of the precisions the one with the fewest bits that is inside the budget is taken,
from that of the chosen candidate on.

Does not know how an engine is built (`engine.py`), nor how a graph is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from device_profiles.profile import Profile
from edge_agent.manifest import Accuracy, Engine, Graph
from edge_agent.recipe import Check, Recipe, ShapeRanges
from exporter.candidate import Built
from exporter.engine import build_engine, builds_engine, engine_runtimes, parse_graph
from exporter.errors import ConversionError, EngineError
from exporter.judge import accepted
from exporter.memory import check_memory
from exporter.older_opset import lower_opset
from exporter.operators import dialect_for, operator_list, unsupported
from exporter.order import Order
from exporter.recipe import as_table, build_recipe
from exporter.shapes import default_shapes, input_dimensions

Dialect = Literal["onnx", "plain"]


class Work(Protocol):
    """What is needed of `Generation` and `Encoding`."""

    def quantized_for_engine(self, half: Built, precision: str) -> Built:
        """The fp16 graph with weights of `precision` as QuantizeLinear pairs."""
        ...

    def verify_surrogate(self, built: Built) -> Accuracy:
        """How truthful a graph of another dialect is, in ONNX Runtime."""
        ...


class EngineGraph(msgspec.Struct, frozen=True):
    """The graph that the engine is built from, the manifest's entry, and why it has no fewer bits."""

    built: Built
    engine: Engine
    refused: tuple[str, ...] = ()


def wanted_dialect(order: Order, profile: Profile) -> Dialect | None:
    """In which dialect this export needs a second graph; None where the `ort` graph is all.

    Raises EngineError where an engine is asked for that cannot be had here.
    """
    if builds_engine(order.engine, profile):
        return "onnx"
    if order.engine != "none" and "tensorrt" in profile.runtimes:
        return dialect_for(profile)
    return None


def engine_for(
    order: Order,
    profile: Profile,
    work: Work,
    half: Built,
    winner: Built,
    context: int,
    tell: Callable[[str, float], None],
) -> EngineGraph:
    """The engine (or recipe) for the profile's device, and the graph it comes from, all below `winner.directory`.

    `half` is the fp16 graph in the dialect wanted. Raises ConversionError or EngineError where no precision will do.
    """
    refused = []
    for precision in _precisions(profile, winner.precision):
        try:
            built = half if precision == "fp16" else work.quantized_for_engine(half, precision)
            _lower_opset(profile, built)
            _check_operators(profile, built)
        except (ConversionError, EngineError) as error:
            refused.append(f"{precision}: {error}")
            continue
        accuracy = work.verify_surrogate(built)
        if not accepted(accuracy):
            refused.append(f"{precision}: drop of at most {accuracy.drop_bound_points:.2f} points")
            continue
        placed = _placed(built, winner.directory)
        if "tensorrt" in profile.runtimes:
            return EngineGraph(placed, _recipe(order, profile, placed, accuracy, context), tuple(refused))
        return EngineGraph(placed, _engine(order, profile, placed, accuracy, context, tell), tuple(refused))
    raise EngineError(f"no engine for {profile.name} is inside the budget ({'; '.join(refused)}): give --engine none")


def _precisions(profile: Profile, chosen: str) -> tuple[str, ...]:
    """From the chosen candidate's bits to half floats, which every GPU runs."""
    order = ("int4", "int8", "fp16")
    first = {"int4": 0, "mixed": 0, "int8": 1}.get(chosen, 2)
    return tuple(one for one in order[first:] if one in profile.precisions)


def _lower_opset(profile: Profile, built: Built) -> None:
    """Rewrite the graph, its data untouched, where the device's TensorRT reads an older opset only."""
    import onnx_ir as ir

    tensorrt = profile.software.tensorrt
    if "tensorrt" not in profile.runtimes or tensorrt is None:
        return
    model, newest = ir.load(built.path), operator_list(tensorrt).opset
    if model.opset_imports[""] > newest:
        lower_opset(model, newest)
        ir.save(model, built.path)


def _check_operators(profile: Profile, built: Built) -> None:
    """Held against what onnx-tensorrt publishes for the device's version, then given to the nearest parser here."""
    tensorrt = profile.software.tensorrt
    if "tensorrt" in profile.runtimes and tensorrt is not None and (problems := unsupported(built.path, tensorrt)):
        raise ConversionError(f"TensorRT {tensorrt} does not take {problems[0]}")
    if engine_runtimes() and (problems := parse_graph(built.path)):
        raise ConversionError(f"TensorRT-RTX's parser does not take {problems[0]}")


def _placed(built: Built, directory: Path) -> Built:
    """The graph and its data, moved into the bundle to be."""
    target = directory / built.graph.path
    for file in built.path.parent.glob(f"{built.path.name}*"):
        file.rename(target.with_name(file.name))
    return msgspec.structs.replace(built, directory=directory)


def _engine(
    order: Order, profile: Profile, built: Built, accuracy: Accuracy, context: int, tell: Callable[[str, float], None]
) -> Engine:
    """Built here; the recipe is for a GPU of another capability, or another TensorRT-RTX, to build its own."""
    capability = profile.compute_capability
    assert capability is not None
    path = f"engines/tensorrt-rtx-{capability}.engine"
    output = built.directory / path
    output.parent.mkdir()
    shapes = default_shapes(built.graph, input_dimensions(built.path), context=context, prefill_apart=False)
    made = build_engine(
        built.path,
        output,
        compute_capability=capability,
        shapes=shapes,
        on_progress=lambda part: tell(f"building the engine for {profile.name}", part),
    )
    return Engine(
        runtime=made.runtime,
        compute_capability=capability,
        precision=built.precision,
        graph=built.graph.path,
        path=path,
        recipe=as_table(_recipe_of(order, profile, built, accuracy, context, shapes)),
        bytes=made.bytes,
        seconds=round(made.seconds, 1),
        surrogate=accuracy,
    )


def _recipe(order: Order, profile: Profile, built: Built, accuracy: Accuracy, context: int) -> Engine:
    assert profile.compute_capability is not None
    shapes = default_shapes(built.graph, input_dimensions(built.path), context=context, prefill_apart=True)
    return Engine(
        runtime="tensorrt",
        compute_capability=profile.compute_capability,
        precision=built.precision,
        graph=built.graph.path,
        recipe=as_table(_recipe_of(order, profile, built, accuracy, context, shapes)),
        surrogate=accuracy,
    )


def _recipe_of(
    order: Order, profile: Profile, built: Built, accuracy: Accuracy, context: int, shapes: ShapeRanges
) -> Recipe:
    budget = check_memory(
        profile, parameters=0, weight_bits=0, weights_bytes=built.weights_bytes, cache=built.graph.cache,
        context=context, engine_build=True,
    )  # fmt: skip
    return build_recipe(
        profile,
        built.graph,
        precision=built.precision,
        shapes=shapes,
        budget=budget,
        check=Check(samples=8, metric=accuracy.metric, budget_points=order.max_accuracy_drop_points),
    )


def graphs_of(winner: Built, engine: EngineGraph | None) -> tuple[Graph, ...]:
    """Every graph of the bundle, the one that ONNX Runtime serves first."""
    return (winner.graph,) if engine is None else (winner.graph, engine.built.graph)
