"""How does one read a directory that a stranger filled, and write one that a power cut cannot halve?

Nothing is followed out of the directory: every entry is looked at with `lstat`, and files are opened without following
links. Hard links are taken: their bytes are in the bundle all the same, and nodes share files of two bundles by them.
It does not protect against somebody who can write into the directory meanwhile. Knows nothing of manifests.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from edge_agent.bundle_paths import MAX_DEPTH, MAX_FILES, MAX_TOTAL_BYTES, collision, path_refusal, size_refusal
from edge_agent.errors import BundleError
from edge_agent.manifest import BundleFile
from hub.whole_file import sync

CHUNK_BYTES: Final = 1024 * 1024
_OPEN_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2  # linux/fs.h


def directory(path: Path) -> Path:
    """`path` resolved; it may itself be a link to a directory. Raises BundleError."""
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path} is no bundle: {error}") from None
    if not root.is_dir():
        raise BundleError(f"{path} is no bundle: it is not a directory")
    return root


def listing(root: Path) -> dict[str, int]:
    """Relative paths of all files with their sizes, sorted.

    Raises BundleError for what is neither file nor directory, an empty directory, and what `bundle_paths.py` refuses.
    """
    found: dict[str, int] = {}
    total = 0
    for relative, size_bytes in _walk(root, "", 0):
        if (why := path_refusal(relative) or size_refusal(relative, size_bytes)) is not None:
            raise BundleError(f"{root}: {relative!r} {why}")
        found[relative] = size_bytes
        total += size_bytes
        if len(found) > MAX_FILES:
            raise BundleError(f"{root}: more than {MAX_FILES} files")
    if total > MAX_TOTAL_BYTES:
        raise BundleError(f"{root}: {total} bytes in all, at most {MAX_TOTAL_BYTES} are taken")
    if (pair := collision(found)) is not None:
        raise BundleError(f"{root}: {pair[0]!r} and {pair[1]!r} differ in upper and lower case only")
    return dict(sorted(found.items()))


def _walk(root: Path, below: str, depth: int) -> Iterator[tuple[str, int]]:
    if depth > MAX_DEPTH:
        raise BundleError(f"{root}: {below!r} lies more than {MAX_DEPTH} directories deep")
    empty = True
    try:
        with os.scandir(root / below) as entries:
            for entry in entries:
                empty = False
                relative = f"{below}/{entry.name}" if below else entry.name
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    raise BundleError(f"{root}: {relative!r} is a link, bundles hold files only")
                if stat.S_ISDIR(status.st_mode):
                    yield from _walk(root, relative, depth + 1)
                elif stat.S_ISREG(status.st_mode):
                    yield relative, status.st_size
                else:
                    raise BundleError(f"{root}: {relative!r} is neither a file nor a directory")
    except OSError as error:
        raise BundleError(f"{root}: {below or '.'!r} cannot be read: {error.strerror}") from None
    if empty:
        raise BundleError(f"{root}: {below or '.'!r} is an empty directory")


def describe(root: Path, relative: str, *, expected_bytes: int | None = None) -> BundleFile:
    """Size and hash of one file; a size other than `expected_bytes` is refused before much is read."""
    digest, size_bytes = hashlib.sha256(), 0
    for chunk in _chunks(root, relative, expected_bytes=expected_bytes):
        digest.update(chunk)
        size_bytes += len(chunk)
    return BundleFile(path=relative, bytes=size_bytes, sha256=digest.hexdigest())


def read_whole(root: Path, relative: str, most_bytes: int) -> bytes:
    """The bytes of one small file. Raises BundleError for one that is larger than `most_bytes`, or cannot be read."""
    payload = bytearray()
    for chunk in _chunks(root, relative):
        payload += chunk
        if len(payload) > most_bytes:
            raise BundleError(f"{root}: {relative} is larger than {most_bytes} bytes")
    return bytes(payload)


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


def put_in_place(staging: Path, output: Path, payloads: Mapping[str, bytes]) -> None:
    """Write `payloads` into `staging` and rename that to `output`, which must not exist: all of it is on disk before.

    Raises BundleError, and then leaves `staging` as it was.
    """
    try:
        for name, payload in payloads.items():
            _write_synced(staging / name, payload)
        _sync_tree(staging)
        os.rename(staging, output)
        sync(output.parent)
    except OSError as error:
        for name in payloads:
            with contextlib.suppress(OSError):
                os.unlink(staging / name)
        raise BundleError(f"{output} cannot be written: {error}") from None


def exchange(first: Path, second: Path) -> None:
    """Let two directories of one file system change names in one step. Raises BundleError where that cannot be done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        raise BundleError(f"{second} cannot be replaced in one step: this system has no renameat2") from None
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        why = "its file system cannot" if code in (errno.EINVAL, errno.ENOSYS) else os.strerror(code)
        raise BundleError(f"{second} cannot be replaced in one step: {why}")
    sync(second.parent)


def _write_synced(path: Path, payload: bytes) -> None:
    with open(path, "xb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            handle = os.open(os.path.join(folder, name), _OPEN_FLAGS)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync(Path(folder))
