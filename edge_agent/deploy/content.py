"""What does a manifest say that a node must have? Pure: bytes in, files and figures out.

Read before anything else of a bundle is there, so it trusts nothing: sizes and names are bounded, paths stay inside.
It can only refuse; whether the bundle may run is for who opens it whole, with its signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_agent.bundle_paths import (
    MANIFEST_NAME,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_TOTAL_BYTES,
    SIGNATURE_NAME,
    collision,
    path_refusal,
    size_refusal,
)
from edge_agent.errors import DeployError
from hub import wire

Bytes = Annotated[int, Meta(ge=0, le=MAX_TOTAL_BYTES)]


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
    _check_files(content.files)
    sizes: dict[str, int] = {}
    for file in content.files:
        if sizes.setdefault(file.sha256, file.bytes) != file.bytes:
            raise DeployError(f"{file.path!r} has two sizes in {MANIFEST_NAME}: {sizes[file.sha256]} and {file.bytes}")
    return content


def blobs(content: Content) -> Mapping[str, int]:
    """Each blob that the manifest names, once, and its size."""
    return {file.sha256: file.bytes for file in content.files}


def _check_files(files: Sequence[File]) -> None:
    found = {MANIFEST_NAME, SIGNATURE_NAME}
    for file in files:
        fault = path_refusal(file.path) or size_refusal(file.path, file.bytes)
        if fault is not None:
            raise DeployError(f"path {file.path[:100]!r} in {MANIFEST_NAME} {fault}")
        if file.path in found:
            raise DeployError(f"{file.path!r} is listed twice in {MANIFEST_NAME}, or is not for it to list")
        found.add(file.path)
    folders = {folder.as_posix() for path in found for folder in PurePosixPath(path).parents}
    if (pair := collision([*sorted(found), *sorted(folders)])) is not None:
        raise DeployError(f"{pair[0]!r} and {pair[1]!r} in {MANIFEST_NAME} cannot lie beside each other")
    if both := sorted(found & folders):
        raise DeployError(f"{both[0]!r} is a file and a folder in {MANIFEST_NAME}")
