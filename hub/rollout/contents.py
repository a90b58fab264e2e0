"""What does a bundle consist of? Reads its manifest, and no more of it than names, sizes and hashes.

The hub carries bundles, it does not open them: who made them, and whether what is in them can be trusted, is checked on
the device. So unknown keys of the manifest are ignored here. What is checked is what could hurt the hub: sizes, paths
that lead out of the bundle, and links.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec
from msgspec import Meta

from hub import wire
from hub.errors import RolloutError

MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "model.sig"
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_SIGNATURE_BYTES: Final = 8 * 1024 * 1024  # it names every file of the bundle
MAX_FILES: Final = 10_000
MAX_BUNDLE_BYTES: Final = 2**42  # 4 TiB

_MOST_ID_CHARS: Final = 200  # with its version and ending it is the name of a file
_OPEN_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\:]")

Bytes = Annotated[int, Meta(ge=0, le=MAX_BUNDLE_BYTES)]
BundleId = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{_MOST_ID_CHARS - 1}}}\Z")]
Version = Annotated[int, Meta(ge=0, le=2**53)]


class Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a bundle: where it lies there, and what it holds."""

    path: str
    bytes: Bytes
    sha256: wire.Sha256


class Contents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle as the hub keeps it, and the whole of `bundles/<bundle>-v<version>.json`."""

    bundle: BundleId
    version: Version
    model: wire.Word
    task: wire.Word
    profile: str
    manifest: Blob
    signature: Blob | None
    files: tuple[Blob, ...]

    @property
    def name(self) -> str:
        """The bundle with its version."""
        return name_of(self.bundle, self.version)

    @property
    def all_files(self) -> tuple[Blob, ...]:
        """Every file, those too that no manifest can list."""
        signature = () if self.signature is None else (self.signature,)
        return (self.manifest, *signature, *self.files)

    @property
    def blobs(self) -> dict[str, int]:
        """Bytes by SHA-256: files that are the same count once."""
        return {file.sha256: file.bytes for file in self.all_files}

    @property
    def size_bytes(self) -> int:
        """What travels to a node that has nothing of it."""
        return sum(self.blobs.values())


def name_of(bundle: str, version: int) -> str:
    """How a bundle of that version is called.

    >>> name_of("smollm2-jetson-orin-0123456789ab", 3)
    'smollm2-jetson-orin-0123456789ab-v3'
    """
    return f"{bundle}-v{version}"


class _File(msgspec.Struct, frozen=True):
    path: str
    bytes: Bytes
    sha256: wire.Sha256


class _Model(msgspec.Struct, frozen=True):
    name: wire.Word


class _Manifest(msgspec.Struct, frozen=True):
    bundle_id: BundleId
    version: Version
    model: _Model
    task: wire.Word
    profile: Annotated[str, Meta(max_length=256)]
    files: Annotated[tuple[_File, ...], Meta(max_length=MAX_FILES)]


def read_contents(root: Path) -> Contents:
    """What the bundle in the directory `root` says that it consists of; its files are not read. Raises RolloutError."""
    payload = _read(root, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    if payload is None:
        raise RolloutError(f"{root} is no bundle: there is no {MANIFEST_NAME} in it")
    try:
        manifest = msgspec.json.decode(payload, type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RolloutError(f"{root}/{MANIFEST_NAME} cannot be read ({error}): export the model again") from None
    signature = _read(root, SIGNATURE_NAME, MAX_SIGNATURE_BYTES)
    files = tuple(Blob(file.path, file.bytes, file.sha256) for file in manifest.files)
    _check(root, files)
    return Contents(
        bundle=manifest.bundle_id,
        version=manifest.version,
        model=manifest.model.name,
        task=manifest.task,
        profile=manifest.profile,
        manifest=_blob(MANIFEST_NAME, payload),
        signature=None if signature is None else _blob(SIGNATURE_NAME, signature),
        files=files,
    )


def open_file(root: Path, path: str) -> BinaryIO:
    """A file of a bundle, for reading; no part of its path may be a link. Raises RolloutError."""
    parts = path.split("/")
    try:
        for end in range(1, len(parts)):
            if not stat.S_ISDIR(os.lstat(root.joinpath(*parts[:end])).st_mode):
                raise RolloutError(f"{root}: {'/'.join(parts[:end])!r} is no directory: bundles hold no links")
        descriptor = os.open(root / path, _OPEN_FLAGS)
    except OSError as error:
        raise RolloutError(f"{root}: {path!r} cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RolloutError(f"{root}: {path!r} is no plain file")
    return os.fdopen(descriptor, "rb")


def _read(root: Path, name: str, most_bytes: int) -> bytes | None:
    """A small file, whole; None where there is none."""
    if not os.path.lexists(root / name):
        return None
    with open_file(root, name) as file:
        payload = file.read(most_bytes + 1)
    if len(payload) > most_bytes:
        raise RolloutError(f"{root}/{name} is larger than {most_bytes} bytes")
    return payload


def _blob(name: str, payload: bytes) -> Blob:
    return Blob(name, len(payload), hashlib.sha256(payload).hexdigest())


def _check(root: Path, files: tuple[Blob, ...]) -> None:
    seen = {MANIFEST_NAME, SIGNATURE_NAME}
    for file in files:
        parts = file.path.split("/")
        if not file.path or _FORBIDDEN.search(file.path) or any(part in ("", ".", "..") for part in parts):
            raise RolloutError(f"{root}: path {file.path!r} in {MANIFEST_NAME} is not a plain path inside the bundle")
        if file.path in seen:
            raise RolloutError(f"{root}: {file.path!r} is listed twice in {MANIFEST_NAME}, or cannot be listed")
        seen.add(file.path)
    if sum(file.bytes for file in files) > MAX_BUNDLE_BYTES:
        raise RolloutError(f"{root}: its files are more than {MAX_BUNDLE_BYTES} bytes together")
