"""What does a manifest say that a node must have? Pure: bytes in, files and figures out.

Read before anything else of a bundle is there, so it trusts nothing: sizes and names are bounded, paths stay inside.
It can only refuse; whether the bundle may run is for who opens it whole, with its signature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from edge_agent.bundle import MANIFEST_NAME, MAX_DEPTH, MAX_FILES, MAX_MANIFEST_BYTES, SIGNATURE_NAME
from edge_agent.errors import DeployError
from hub import wire

MAX_SIGNATURE_BYTES: Final = 4 * 1024 * 1024
MAX_BUNDLE_BYTES: Final = 1 << 40
_MOST_PATH_BYTES: Final = 1024
_MOST_NAME_BYTES: Final = 255
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\:]")

Bytes = Annotated[int, Meta(ge=0, le=MAX_BUNDLE_BYTES)]


class File(msgspec.Struct, frozen=True):
    """One file of a bundle."""

    path: str
    bytes: Bytes
    sha256: wire.Sha256


class _Model(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]


class _Measured(msgspec.Struct, frozen=True):
    peak_rss_bytes: Bytes = 0


class Content(msgspec.Struct, frozen=True):
    """What is read of `manifest.json` here; the rest is for who opens the bundle."""

    bundle_id: Annotated[str, Meta(min_length=1, max_length=256)]
    version: wire.Count
    model: _Model
    files: Annotated[tuple[File, ...], Meta(max_length=MAX_FILES)]
    measured: _Measured = _Measured()
    downgrade_from: wire.Count | None = None

    @property
    def memory_bytes(self) -> int:
        """What it took where it was made, and no less than its files."""
        return max(self.measured.peak_rss_bytes, sum(file.bytes for file in self.files))


_decoder = msgspec.json.Decoder(Content)


def read_content(payload: bytes) -> Content:
    """Raises DeployError: no manifest, or one that names a file outside its bundle, twice, or too much."""
    if len(payload) > MAX_MANIFEST_BYTES:
        raise DeployError(f"{MANIFEST_NAME} has {len(payload)} bytes, at most {MAX_MANIFEST_BYTES} are taken")
    try:
        content = _decoder.decode(payload)
    except RecursionError:
        raise DeployError(f"{MANIFEST_NAME} is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DeployError(f"{MANIFEST_NAME}: {error}") from None
    _check_paths([file.path for file in content.files])
    sizes: dict[str, int] = {}
    for file in content.files:
        if sizes.setdefault(file.sha256, file.bytes) != file.bytes:
            raise DeployError(f"{file.path!r} has two sizes in {MANIFEST_NAME}: {sizes[file.sha256]} and {file.bytes}")
    return content


def blobs(content: Content) -> Mapping[str, int]:
    """Each blob that the manifest names, once, and its size."""
    return {file.sha256: file.bytes for file in content.files}


def _check_paths(paths: list[str]) -> None:
    files = {MANIFEST_NAME, SIGNATURE_NAME}
    for path in paths:
        if fault := _fault(path):
            raise DeployError(f"path {path[:100]!r} in {MANIFEST_NAME} {fault}")
        if path in files:
            raise DeployError(f"{path!r} is listed twice in {MANIFEST_NAME}, or is not for it to list")
        files.add(path)
    folders = {
        "/".join(parts[:depth]) for parts in (path.split("/") for path in files) for depth in range(1, len(parts))
    }
    if both := sorted(folders & files):
        raise DeployError(f"{both[0]!r} is a file and a folder in {MANIFEST_NAME}")


def _fault(path: str) -> str | None:
    parts = path.split("/")
    if not path or _FORBIDDEN.search(path):
        return "is empty or holds a control character, a backslash or a colon"
    if "" in parts or "." in parts or ".." in parts:
        return "leaves the bundle, or is not normalized"
    try:
        long = len(path.encode()) > _MOST_PATH_BYTES or any(len(part.encode()) > _MOST_NAME_BYTES for part in parts)
    except UnicodeEncodeError:
        return "holds half a character"
    return "is too long, or too deep" if long or len(parts) > MAX_DEPTH else None
