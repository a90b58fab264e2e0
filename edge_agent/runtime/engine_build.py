"""Builds the engine of a bundle on this very device, by the recipe in its manifest, into the cache of engines.

The builder works in a process of its own with low priority, so that whoever answers meanwhile comes first. Memory is
asked for before: a build that pushes out the graph that serves would be worse than none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.bundle import Bundle
from edge_agent.errors import RuntimeUnavailable
from edge_agent.manifest import Engine
from edge_agent.memory import available_bytes
from edge_agent.recipe import Recipe
from edge_agent.runtime.engine_cache import Key, find_engine, graph_sha256, keeping, recipe_sha256
from edge_agent.runtime.engine_process import BuildProcess, Order
from edge_agent.runtime.gpu import Gpu, driver_version
from edge_agent.runtime.tensorrt import library, version_refusal

log = logging.getLogger(__name__)

NICENESS: Final = 10
_TOLD_APART: Final = 0.1  # of the whole, between two lines of the log


class Build:
    """One engine to be built, or found in the cache. `progress` is 0 to 1; `run` may take minutes."""

    def __init__(self, bundle: Bundle, recipe: Recipe, key: Key, folder: Path) -> None:
        self.progress = 0.0
        self._bundle = bundle
        self._recipe = recipe
        self._key = key
        self._folder = folder
        self._lock = threading.Lock()
        self._process: BuildProcess | None = None
        self._stopped = False

    def found(self) -> Path | None:
        """The engine, if it was built before."""
        return find_engine(self._folder, self._key)

    def run(self) -> Path:
        """Build the engine; where it is kept. Raises RuntimeUnavailable with the reason why not."""
        if (refusal := memory_refusal(self._recipe, available_bytes())) is not None:
            raise RuntimeUnavailable(refusal)
        try:
            with keeping(self._folder, self._key) as output:
                self._build(output)
        except OSError as error:
            raise RuntimeUnavailable(f"no engine can be kept in {self._folder}: {error.strerror or error}") from None
        engine = self.found()
        if engine is None:
            raise RuntimeUnavailable(f"the engine that was put into {self._folder} is not there any more")
        return engine

    def stop(self) -> None:
        """End it; `run` then raises. From any thread."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _build(self, output: Path) -> None:
        recipe = self._recipe
        order = Order(
            graph_path=str(self._bundle.file(recipe.graph).resolve()),
            runtime=recipe.runtime,
            output=str(output),
            compute_capability=self._key.compute_capability if recipe.runtime == "tensorrt-rtx" else "",
            shapes=recipe.shapes,
            workspace_bytes=recipe.workspace_bytes,
            strongly_typed=recipe.strongly_typed,
            flags=recipe.flags,
            decomposable_attention=recipe.decomposable_attention,
            niceness=NICENESS,
        )
        with self._lock:
            if self._stopped:
                raise RuntimeUnavailable("its engine was not built: this node stops")
            self._process = BuildProcess(order)
        told = 0.0
        for event in self._process.events():
            self.progress = event.fraction or self.progress
            if self.progress >= told + _TOLD_APART:
                told = self.progress
                log.info("building the engine for %s: %.0f%%", recipe.runtime, 100 * told)
            refused = event.refused and f"the parser refuses {event.refused[0]}"
            reason = refused or event.failed or event.unwritable or (event.crashed and f"the builder {event.crashed}")
            if reason:
                raise RuntimeUnavailable(f"its engine cannot be built: {reason}")


def build_of(bundle: Bundle, entry: Engine, gpu: Gpu, folder: Path) -> Build:
    """The build of an entry for this GPU. Raises RuntimeUnavailable where its recipe is not for this machine."""
    recipe = recipe_of(entry)
    version = str(library(recipe.runtime).__version__)
    if (refusal := version_refusal(recipe, version)) is not None:
        raise RuntimeUnavailable(refusal)
    return Build(bundle, recipe, key_of(bundle, entry, gpu, version), folder)


def recipe_of(entry: Engine) -> Recipe:
    """The recipe in an entry. Raises RuntimeUnavailable where there is none, or one that this release cannot read."""
    if entry.recipe is None:
        raise RuntimeUnavailable(f"the bundle has no recipe to build an engine for {entry.runtime}: export it again")
    try:
        return msgspec.convert(entry.recipe, Recipe)
    except msgspec.ValidationError as error:
        raise RuntimeUnavailable(f"its recipe cannot be read ({error}): export the model again") from None


def key_of(bundle: Bundle, entry: Engine, gpu: Gpu, version: str, driver: Callable[[], str] = driver_version) -> Key:
    """All that the engine of `entry` depends on, on this GPU with the library of that version."""
    recipe: dict[str, Any] = entry.recipe or {}
    return Key(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        tensorrt=f"{entry.runtime} {version}",
        cuda=gpu.cuda,
        driver=driver(),
        graph_sha256=graph_sha256(bundle.manifest, entry.graph),
        recipe_sha256=recipe_sha256(recipe),
    )


def memory_refusal(recipe: Recipe, free_bytes: int | None) -> str | None:
    """Why there is not the memory to build; None if there is, or if the system does not say."""
    if free_bytes is None or recipe.build_bytes <= free_bytes:
        return None
    return (
        f"building its engine needs {recipe.build_bytes / 1e6:.0f} MB, about 4 times its weights, "
        f"and {free_bytes / 1e6:.0f} MB are free: stop other programs and start this node again"
    )
