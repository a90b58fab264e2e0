"""Opens a bundle with the best runtime that this machine has, and knows why not with a better one.

In order: what the profile runs and the bundle carries -> open -> read back what is really used -> compare the recorded
samples -> take it, or say why not and go on with the next. An engine that has to be built first is built behind the
back of the next best runtime, which answers meanwhile.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from device_profiles.profile import Runtime
from edge_agent.bundle import Bundle
from edge_agent.errors import InputError, RuntimeUnavailable
from edge_agent.manifest import Engine as EngineEntry
from edge_agent.manifest import Graph
from edge_agent.runtime.choice import ENGINE_RUNTIMES, Asked, Choice, engine_entry, lacking, runtimes_for
from edge_agent.runtime.encoder_answerer import EncoderAnswerer
from edge_agent.runtime.encoder_engine import encoder_engine
from edge_agent.runtime.engine import Engine, engine_of, engine_with, served_context
from edge_agent.runtime.engine_build import Build, build_of
from edge_agent.runtime.engine_cache import cache_folder
from edge_agent.runtime.generation import OneByOne
from edge_agent.runtime.gpu import Gpu, open_gpu
from edge_agent.runtime.step_cost import ENOUGH_S
from edge_agent.runtime.switching import Preparation, Ready, Switching
from edge_agent.runtime.tensorrt import library
from edge_agent.runtime.tensorrt_decoder import open_tensorrt
from edge_agent.samples import SamplesScore, compare_outputs, compare_tokens, refusal

log = logging.getLogger(__name__)

BEING_BUILT: Final = "its engine is being built"
BUILT_LATER: Final = "another engine is built before, and none after it: name this one by --runtime"


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """How bundles are opened: what `engine_of` says of each of these, and what `--runtime` asks for."""

    context: int | None
    threads: int | None
    parallel: int
    prefix_bytes: int
    runtime: Asked = "auto"


def open_answerer(bundle: Bundle, opening: Opening) -> Switching:
    """The bundle on the best runtime, warmed up and checked; to be closed.

    A runtime that is asked for by name is waited for, whatever it takes. Raises RuntimeUnavailable where it, or the
    last one of all, cannot be had, BundleError and InputError for what no runtime would change.
    """
    manifest = bundle.manifest
    wanted = runtimes_for(manifest, opening.runtime)
    choice, preparation = Choice("cpu"), None
    for runtime in wanted:
        try:
            opened = _open(bundle, opening, runtime)
            if isinstance(opened, Build) and runtime == wanted[-1]:
                ready = _built(bundle, opening, runtime, opened)
            elif isinstance(opened, Build):
                choice = choice.without(runtime, BEING_BUILT if preparation is None else BUILT_LATER)
                preparation = preparation or _preparation(bundle, opening, runtime, opened)
                continue
            else:
                ready = opened
        except RuntimeUnavailable as error:
            if runtime == wanted[-1]:
                if preparation is not None:
                    preparation.close()
                raise RuntimeUnavailable(f"{manifest.bundle_id} does not run on {runtime}: {error}") from None
            log.info("%s does not run on %s: %s", manifest.bundle_id, runtime, error)
            choice = choice.without(runtime, str(error))
        else:
            choice = choice.using(runtime)
            log.info("%s runs on %s%s", manifest.bundle_id, runtime, f" ({choice.why})" if choice.why else "")
            return Switching(ready, choice, preparation)
    raise AssertionError("there is always a last runtime")


def _open(bundle: Bundle, opening: Opening, runtime: Runtime) -> Ready | Build:
    """What runs, or what has to be built before it can. Raises RuntimeUnavailable with the reason."""
    if (reason := lacking(bundle.manifest, runtime)) is not None:
        raise RuntimeUnavailable(reason)
    if runtime in ENGINE_RUNTIMES:
        return _open_engine(bundle, opening, runtime)
    on: Literal["cpu", "cuda"] = "cuda" if runtime == "cuda" else "cpu"
    if bundle.manifest.encoder is not None:
        return _encoder(bundle, opening, on)
    engine = engine_of(
        bundle,
        context=opening.context,
        threads=opening.threads,
        parallel=opening.parallel,
        prefix_bytes=opening.prefix_bytes,
        runtime=on,
    )
    return _checked(engine, runtime)


def _open_engine(bundle: Bundle, opening: Opening, runtime: Runtime) -> Ready | Build:
    """The engine that the bundle brings, or the one that this device has built, or the build of it."""
    library(runtime)
    gpu = open_gpu()
    entry = engine_entry(bundle.manifest, runtime)
    assert entry is not None, "lacking() has looked"
    if entry.path is not None and entry.compute_capability == gpu.compute_capability:
        try:
            return _with_engine(bundle, opening, runtime, bundle.file(entry.path), gpu)
        except RuntimeUnavailable as error:  # another TensorRT-RTX, say
            if entry.recipe is None:
                raise
            log.info("the engine in %s is not for this machine (%s): it is built here", bundle.path, error)
    build = build_of(bundle, entry, gpu, cache_folder())
    found = build.found()
    return build if found is None else _with_engine(bundle, opening, runtime, found, gpu)


def _preparation(bundle: Bundle, opening: Opening, runtime: Runtime, build: Build) -> Preparation:
    return Preparation(
        runtime,
        lambda: _built(bundle, opening, runtime, build),
        progress=lambda: build.progress,
        stop=build.stop,
    )


def _built(bundle: Bundle, opening: Opening, runtime: Runtime, build: Build) -> Ready:
    """Build the engine, open it and hold it against the samples."""
    return _with_engine(bundle, opening, runtime, build.run(), open_gpu())


def _with_engine(bundle: Bundle, opening: Opening, runtime: Runtime, path: Path, gpu: Gpu) -> Ready:
    entry = engine_entry(bundle.manifest, runtime)
    assert entry is not None, "lacking() has looked"
    decoder = open_tensorrt(path, _graph_of(bundle, entry), gpu, runtime=runtime, context=_context(bundle, opening))
    return _checked(engine_with(bundle, decoder), runtime)


def _context(bundle: Bundle, opening: Opening) -> int | None:
    return None if opening.context is None else served_context(bundle.manifest, opening.context)


def _graph_of(bundle: Bundle, entry: EngineEntry) -> Graph:
    return next(graph for graph in bundle.manifest.graphs if graph.path == entry.graph)


def _encoder(bundle: Bundle, opening: Opening, runtime: Literal["cpu", "cuda"]) -> Ready:
    engine = encoder_engine(bundle, threads=opening.threads, runtime=runtime)
    answerer = EncoderAnswerer(engine)

    def compare() -> SamplesScore:
        return compare_outputs(engine)

    _held_against_samples(bundle, runtime, compare, answerer.close)
    answerer.warm_up()
    return Ready(OneByOne(answerer), runtime, answerer.close, lambda: _without_samples(compare))


def _checked(engine: Engine, runtime: Runtime) -> Ready:
    """The engine, which has given what it gave where it was made, and knows what that costs here.

    On the CPU, where nothing else can be taken, as many samples are compared as a warm-up may take; elsewhere all.
    """
    enough_s = ENOUGH_S if runtime == "cpu" else math.inf
    bundle = engine.bundle

    def compare() -> SamplesScore:
        return compare_tokens(engine, enough_s=enough_s)

    if not _held_against_samples(bundle, runtime, compare, engine.close):
        engine.warm_up()
    return Ready(engine, runtime, engine.close, lambda: _without_samples(compare))


def _without_samples(compare: Callable[[], SamplesScore]) -> SamplesScore | None:
    """The score, or None for a bundle that cannot be compared."""
    try:
        return compare()
    except InputError:
        return None


def _held_against_samples(
    bundle: Bundle, runtime: Runtime, compare: Callable[[], SamplesScore], close: Callable[[], None]
) -> bool:
    """Whether the samples were compared; on a CPU a bundle without any is taken as it is.

    Raises RuntimeUnavailable where they differ, or cannot be compared, and closes what was opened.
    """
    try:
        score = compare()
        if (reason := refusal(score)) is not None:
            raise RuntimeUnavailable(reason)
    except InputError as error:
        if runtime == "cpu":
            log.info("what %s gives here was not compared: %s", bundle.manifest.bundle_id, error)
            return False
        close()
        raise RuntimeUnavailable(f"what it gives cannot be checked: {error}") from None
    except BaseException:
        close()
        raise
    log.info("%s gives here on %s what it gave: %s", bundle.manifest.bundle_id, runtime, _said(score))
    return True


def _said(score: SamplesScore) -> str:
    if score.tokens is not None:
        return f"{score.equal} of {score.tokens} tokens equal, in {score.samples} samples"
    return f"cosine {score.cosine:.4f} over {score.samples} samples"
