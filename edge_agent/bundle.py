"""Writes, opens and verifies bundles: a directory whose every byte `manifest.json` answers for.

A bundle is opened whole or refused, and the refusal says what is wrong and where. Nothing inside is
followed out of the directory: paths are checked as text before they touch the file system, every entry is
looked at with `lstat`, and files are opened without following links. Two readers of the same bytes agree on
its name, because the name holds a hash of what decides the answers (graphs, tokenizer, task, generation
defaults).

Knows nothing of what the files mean: `runtime/` checks graphs, `tokenizer.py` the tokenizer. It does not
protect against somebody who can write into the directory after it was opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.errors import BundleError
from edge_agent.manifest import SCHEMA, BundleFile, Manifest

MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "model.sig"
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_FILES: Final = 10_000
MAX_DEPTH: Final = 16  # directories below the bundle
CHUNK_BYTES: Final = 1024 * 1024

_HASHED: Final = ("model/", "tokenizer/")
_UNHASHED: Final = frozenset((MANIFEST_NAME, SIGNATURE_NAME))
_NAMED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\:]")  # control characters, backslashes, drives and streams
_OPEN_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Bundle(msgspec.Struct, frozen=True):
    """A directory that was verified against its manifest. `path` is absolute and resolved."""

    path: Path
    manifest: Manifest

    def file(self, relative: str) -> Path:
        """The absolute path of a file that the manifest lists. Raises BundleError if it does not."""
        if all(entry.path != relative for entry in self.manifest.files):
            raise BundleError(f"{self.path}: {relative!r} is no file of this bundle")
        return self.path / relative


def open_bundle(path: Path) -> Bundle:
    """Open and verify the bundle in the directory `path`.

    The directory itself may be reached through a link (`current -> v3`); nothing inside may be one.
    Raises BundleError: no directory, schema, unknown key, path, link, missing or extra file, size, hash, id.
    """
    root = _directory(path)
    manifest = _decode(root, _read_manifest(root))
    _check_paths(root, manifest)
    _check_listing(root, manifest)
    for entry in manifest.files:
        _check_file(root, entry)
    _check_id(root, manifest)
    return Bundle(root, manifest)


def write_bundle(staging: Path, output: Path, draft: Manifest) -> Manifest:
    """Turn the directory `staging` into the bundle `output`, and return the manifest that was written.

    Every file in `staging` (which must lie on the same file system as `output`) is hashed and listed;
    `bundle_id` and `files` of `draft` are computed anew. Everything is on disk before the one rename that
    makes the bundle visible, so a power cut leaves the whole bundle or none. Raises BundleError, and then
    leaves `staging` as it was.
    """
    root = _directory(staging)
    if os.path.lexists(output):
        raise BundleError(f"{output} exists already: choose another output, or remove it first")
    for reserved in sorted(_UNHASHED):
        if os.path.lexists(root / reserved):
            raise BundleError(f"{root}: {reserved} is written with the bundle and must not be staged")
    files = tuple(_describe(root, relative) for relative in sorted(_listing(root)))
    manifest = msgspec.structs.replace(draft, schema=SCHEMA, files=files)
    manifest = msgspec.structs.replace(manifest, bundle_id=bundle_id(manifest))
    payload = encode_manifest(manifest)
    manifest = _decode(root, payload)  # what the device will read, and proof that it can
    _check_paths(root, manifest)
    _check_named(root, manifest)
    try:
        _write_synced(root / MANIFEST_NAME, payload)
        _sync_tree(root)
        os.rename(root, output)
        _sync_directory(output.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(root / MANIFEST_NAME)
        raise BundleError(f"{output} cannot be written: {error}") from None
    return manifest


def staged_id(staging: Path, draft: Manifest) -> str:
    """The id that `write_bundle` will give to what is staged now; only `model/` and `tokenizer/` decide it.

    So a report inside the bundle can name the bundle. Raises BundleError.
    """
    root = _directory(staging)
    files = (_describe(root, path) for path in sorted(_listing(root)) if path.startswith(_HASHED))
    return bundle_id(msgspec.structs.replace(draft, files=tuple(files)))


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: fields in the order of the schema, other keys sorted, indented by two."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def content_hash(manifest: Manifest) -> str:
    """Hex SHA-256 of what decides the answers.

    That is the compact JSON of `[files, task, generation]`, where files are the sorted `[path, sha256]` of
    `model/` and `tokenizer/`, and generation is the manifest's with its keys in the order of the schema.
    """
    hashed = sorted((entry.path, entry.sha256) for entry in manifest.files if entry.path.startswith(_HASHED))
    said = msgspec.json.encode([hashed, manifest.task, manifest.generation], order="deterministic")
    return hashlib.sha256(said).hexdigest()


def bundle_id(manifest: Manifest) -> str:
    """`<model>-<profile>-<12 hex of the content hash>`. Raises BundleError if that would be no plain name."""
    name = f"{manifest.model.name}-{manifest.profile}-{content_hash(manifest)[:12]}"
    if not _NAMED.match(name):
        raise BundleError(f"bundle id {name!r}: model and profile names take letters, digits, '.', '_' and '-' only")
    return name


# --- the manifest ---------------------------------------------------------------------------------------


class _SchemaProbe(msgspec.Struct):
    schema: Any = None


def _read_manifest(root: Path) -> bytes:
    payload = bytearray()
    for chunk in _chunks(root, MANIFEST_NAME):
        payload += chunk
        if len(payload) > MAX_MANIFEST_BYTES:
            raise BundleError(f"{root}: {MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES} bytes")
    return bytes(payload)


def _decode(root: Path, payload: bytes) -> Manifest:
    if len(payload) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{root}: {MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        schema = msgspec.json.decode(payload, type=_SchemaProbe).schema
        if isinstance(schema, bool) or schema != SCHEMA:
            raise BundleError(
                f"{root}: schema {schema!r} of {MANIFEST_NAME} is unknown, this agent reads {SCHEMA}: "
                "export the model again, or install the edgefleet that wrote it"
            )
        return msgspec.json.decode(payload, type=Manifest)
    except RecursionError:
        raise BundleError(f"{root}: {MANIFEST_NAME} is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{root}: {MANIFEST_NAME}: {error}") from None


def _check_id(root: Path, manifest: Manifest) -> None:
    computed = bundle_id(manifest)
    if computed != manifest.bundle_id:
        raise BundleError(f"{root}: bundle_id is {manifest.bundle_id!r}, but its content makes it {computed!r}")


def _check_paths(root: Path, manifest: Manifest) -> None:
    """Refuse any path that could mean something outside the bundle, or two things in it."""
    seen: set[str] = set()
    for entry in manifest.files:
        _check_path(root, "files", entry.path)
        if entry.path in _UNHASHED:
            raise BundleError(f"{root}: {entry.path} cannot list itself in files")
        if entry.path in seen:
            raise BundleError(f"{root}: {entry.path!r} is listed twice in files")
        seen.add(entry.path)
    for what, named in _named_paths(manifest):
        _check_path(root, what, named)


def _named_paths(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for graph in manifest.graphs:
        yield "graphs", graph.path
    yield "tokenizer", manifest.tokenizer.path
    if manifest.tokenizer.chat_template is not None:
        yield "tokenizer", manifest.tokenizer.chat_template
    for engine in manifest.engines:
        if engine.path is not None:
            yield "engines", engine.path


def _check_path(root: Path, where: str, path: str) -> None:
    said = f"{root}: path {path!r} in {where}"
    if not path or _FORBIDDEN.search(path):
        raise BundleError(f"{said} is empty or holds a control character, a backslash or a colon")
    if path.startswith("/"):
        raise BundleError(f"{said} is absolute: paths are relative to the bundle")
    parts = path.split("/")
    if ".." in parts:
        raise BundleError(f"{said} leaves the bundle")
    if "" in parts or "." in parts:
        raise BundleError(f"{said} is not normalized")


def _check_named(root: Path, manifest: Manifest) -> None:
    listed = {entry.path for entry in manifest.files}
    for what, named in _named_paths(manifest):
        if named not in listed:
            raise BundleError(f"{root}: {what} names {named!r}, which is no file of the bundle")


# --- files ----------------------------------------------------------------------------------------------


def _directory(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path} is no bundle: {error}") from None
    if not root.is_dir():
        raise BundleError(f"{path} is no bundle: it is not a directory")
    return root


def _listing(root: Path, below: str = "", depth: int = 0) -> Iterator[str]:
    """Relative paths of all regular files; anything that is neither file nor directory is refused."""
    if depth > MAX_DEPTH:
        raise BundleError(f"{root}: {below!r} lies more than {MAX_DEPTH} directories deep")
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as error:
        raise BundleError(f"{root}: {below or '.'} cannot be read: {error}") from None
    for entry in entries:
        relative = f"{below}/{entry.name}" if below else entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise BundleError(f"{root}: {relative!r} is a link, bundles hold files only")
        if stat.S_ISDIR(mode):
            yield from _listing(root, relative, depth + 1)
        elif stat.S_ISREG(mode):
            yield relative
        else:
            raise BundleError(f"{root}: {relative!r} is neither a file nor a directory")


def _check_listing(root: Path, manifest: Manifest) -> None:
    if len(manifest.files) > MAX_FILES:
        raise BundleError(f"{root}: {len(manifest.files)} files are listed, at most {MAX_FILES} are taken")
    listed = {entry.path for entry in manifest.files}
    found: set[str] = set()
    for relative in _listing(root):
        if relative not in listed and relative not in _UNHASHED:
            raise BundleError(f"{root}: {relative!r} is not listed in {MANIFEST_NAME}")
        found.add(relative)
    if missing := sorted(listed - found):
        raise BundleError(f"{root}: {missing[0]!r} is listed in {MANIFEST_NAME}, but missing")
    _check_named(root, manifest)


def _check_file(root: Path, entry: BundleFile) -> None:
    found = _describe(root, entry.path, expected_bytes=entry.bytes)
    if found.sha256 != entry.sha256:
        raise BundleError(
            f"{root}: {entry.path!r} has SHA-256 {found.sha256}, the manifest says {entry.sha256}: "
            "copy the bundle again"
        )


def _describe(root: Path, relative: str, *, expected_bytes: int | None = None) -> BundleFile:
    """Size and hash of one file; a size other than `expected_bytes` is refused before much is read."""
    digest, size_bytes = hashlib.sha256(), 0
    for chunk in _chunks(root, relative, expected_bytes=expected_bytes):
        digest.update(chunk)
        size_bytes += len(chunk)
    return BundleFile(path=relative, bytes=size_bytes, sha256=digest.hexdigest())


def _chunks(root: Path, relative: str, *, expected_bytes: int | None = None) -> Iterator[bytes]:
    try:
        # O_NONBLOCK: a pipe put where a file should be must not make the agent wait for a writer.
        handle = os.open(root / relative, _OPEN_FLAGS)
    except OSError as error:
        raise BundleError(f"{root}: {relative!r} cannot be opened: {error.strerror or error}") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise BundleError(f"{root}: {relative!r} is not a file")
    with open(handle, "rb", buffering=0) as file:
        if expected_bytes is not None and status.st_size != expected_bytes:
            raise BundleError(
                f"{root}: {relative!r} has {status.st_size} bytes, the manifest says {expected_bytes}: "
                "copy the bundle again"
            )
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _write_synced(path: Path, payload: bytes) -> None:
    with open(path, "xb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _sync_tree(root: Path) -> None:
    for directory, _, names in os.walk(root):
        for name in names:
            handle = os.open(os.path.join(directory, name), _OPEN_FLAGS)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        _sync_directory(Path(directory))


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
