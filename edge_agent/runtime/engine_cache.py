"""Keeps the engines that this device has built, each under all that it depends on.

An engine is tied to the GPU, its driver, CUDA and TensorRT, and to the graph and recipe that it was built from: where
any of them changes, that is another entry. An entry appears whole or not at all; one that was damaged since is
not used. Knows nothing of what an engine is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.manifest import Manifest
from edge_agent.recipe import CACHE_KEY
from hub.whole_file import sync

log = logging.getLogger(__name__)

_ENGINE: Final = "engine"
_ENTRY: Final = "key.json"
_CHUNK: Final = 1 << 20


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that an engine depends on; the names are those of `edge_agent.recipe.CACHE_KEY`."""

    gpu: str
    compute_capability: str
    tensorrt: str
    cuda: str
    driver: str
    graph_sha256: str
    recipe_sha256: str

    @property
    def sha256(self) -> str:
        """Of the key itself: the name of its entry."""
        return _sha256_of(msgspec.to_builtins(self))


assert Key.__struct_fields__ == CACHE_KEY


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: Key
    bytes: int
    sha256: str


def graph_sha256(manifest: Manifest, graph: str) -> str:
    """Of a graph and the files of weights beside it, as the manifest has them: nothing is read."""
    return _sha256_of(sorted((file.path, file.sha256) for file in manifest.files if file.path.startswith(graph)))


def recipe_sha256(recipe: Mapping[str, Any]) -> str:
    """Of a recipe as the manifest holds it."""
    return _sha256_of(recipe)


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/edgefleet/engines`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgefleet" / "engines"


def find_engine(folder: Path, key: Key) -> Path | None:
    """The engine kept under `key`; None where there is none, or a damaged one, which is said in the log."""
    place = folder / key.sha256
    engine = place / _ENGINE
    try:
        entry = msgspec.json.decode((place / _ENTRY).read_bytes(), type=_Entry)
        size = engine.stat().st_size
    except FileNotFoundError:
        if place.exists():
            log.warning("the engine in %s is not whole: it is built again", place)
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("the engine in %s cannot be used (%s): it is built again", place, error)
        return None
    if entry.key != key or entry.bytes != size or entry.sha256 != _sha256_of_file(engine):
        log.warning("the engine in %s is damaged: it is built again", place)
        return None
    return engine


@contextmanager
def keeping(folder: Path, key: Key) -> Iterator[Path]:
    """Where to write the engine for `key`; if the block ends well it is kept there, in place of what there was.

    Raises OSError where nothing can be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{key.sha256[:12]}.", suffix=".part", dir=folder))
    try:
        engine = staging / _ENGINE
        yield engine
        entry = _Entry(key=key, bytes=engine.stat().st_size, sha256=_sha256_of_file(engine))
        (staging / _ENTRY).write_bytes(msgspec.json.format(msgspec.json.encode(entry)))
        for path in (engine, staging / _ENTRY, staging):
            sync(path)
        place = folder / key.sha256
        if place.exists():
            shutil.rmtree(place)
        staging.rename(place)
        sync(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sha256_of(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def _sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
