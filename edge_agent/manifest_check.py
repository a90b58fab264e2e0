"""Does a manifest say something that no bundle may say? Paths, places and texts; pure.

The schema (`manifest.py`) was checked when it was read. Knows nothing of the files themselves.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from edge_agent.bundle_paths import MANIFEST_NAME, MAX_FILES, SIGNATURE_NAME, path_refusal, size_refusal
from edge_agent.manifest import Manifest

_PLACES: Final = {
    "graphs": re.compile(r"model/.*\.onnx\Z"),
    "tokenizer": re.compile(r"tokenizer/.*\.json\Z"),
    "chat_template": re.compile(r"tokenizer/.*\.jinja\Z"),
    "engines": re.compile(r"engines/.*\Z"),
}
# Control characters, and what turns the direction of writing: both make a terminal show what is not so.
_UNPRINTABLE: Final = ("Cc", "Cs")
_TURNING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SPOKEN_FREELY: Final = ("samples", "tokenizer", "files")  # prompts and tokens are text of any kind


def manifest_refusal(manifest: Manifest) -> str | None:
    """What this manifest says that it must not, in one line; None if it may be believed as far as it goes."""
    return next(_refusals(manifest), None)


def _refusals(manifest: Manifest) -> Iterator[str]:
    if len(manifest.files) > MAX_FILES:
        yield f"{len(manifest.files)} files are listed, at most {MAX_FILES} are taken"
    listed: set[str] = set()
    for entry in manifest.files:
        if (why := path_refusal(entry.path)) is not None:
            yield f"path {entry.path!r} in files {why}"
        if entry.path in (MANIFEST_NAME, SIGNATURE_NAME):
            yield f"{entry.path} cannot list itself in files"
        if entry.path in listed:
            yield f"{entry.path!r} is listed twice in files"
        if (why := size_refusal(entry.path, entry.bytes)) is not None:
            yield f"{entry.path!r} in files {why}"
        listed.add(entry.path)
    for what, path in _named(manifest):
        if (why := path_refusal(path)) is not None:
            yield f"path {path!r} in {what} {why}"
        elif path not in listed:
            yield f"{what} names {path!r}, which is no file of the bundle"
        elif not _PLACES[what].match(path):
            yield f"{what} names {path!r}, and those lie at {_PLACES[what].pattern.removesuffix('Z')[:-1]}"
    if not manifest.graphs:
        yield "graphs names none"
    graphs = {graph.path for graph in manifest.graphs}
    for engine in manifest.engines:
        if engine.graph not in graphs:
            yield f"an engine is built from {engine.graph!r}, which is no graph of the bundle"
    for text in _texts(msgspec.to_builtins(manifest)):
        if (char := _unprintable(text)) is not None:
            yield f"{text[:60]!r} holds U+{ord(char):04X}, which terminals do not show as it is"


def _named(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for graph in manifest.graphs:
        yield "graphs", graph.path
    yield "tokenizer", manifest.tokenizer.path
    if manifest.tokenizer.chat_template is not None:
        yield "chat_template", manifest.tokenizer.chat_template
    for engine in manifest.engines:
        if engine.path is not None:
            yield "engines", engine.path


def _texts(document: dict[str, Any]) -> Iterator[str]:
    """Every text of the manifest that is shown to people."""
    waiting: list[Any] = [value for key, value in document.items() if key not in _SPOKEN_FREELY]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += value


def _unprintable(text: str) -> str | None:
    if text.isascii() and text.isprintable():
        return None
    return next((char for char in text if char in _TURNING or unicodedata.category(char) in _UNPRINTABLE), None)
