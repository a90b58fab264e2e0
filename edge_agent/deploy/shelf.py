"""Where deployed bundles lie on disk, so that power may go at any instant: `--deployments DIR`.

    lock                                  held by the one agent that uses the directory
    record.json                           what must not be forgotten (`record.py`)
    bundles/<id>-v<version>-<8 hex>/      whole bundles
    incoming/<sha256>                     whole files for the next bundle
    incoming/<sha256>.part                what has come of one

A name that has no dot in front and no `.part` or `.new` behind stands for something whole: its bytes were synced before
it got the name. So a change is: write beside, sync, rename, sync the directory; and to remove a bundle is to rename it
first. What is found half done at the start is removed, but `.part` files are gone on with.

Files that another bundle here has are copied, by shared blocks where the file system can (Btrfs, XFS), and hashed
again. They are no hard links: one inode for two bundles would let one bad write ruin the new bundle and the one that
the node must be able to go back to. Only what was fetched gets its place by a link, and loses its first name then.

Knows nothing of networks, nor whether a bundle may run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.bundle_files import CHUNK_BYTES
from edge_agent.bundle_paths import MANIFEST_NAME
from edge_agent.deploy.disk import Disk
from edge_agent.deploy.record import Record
from edge_agent.deploy.recovery import RECORD_NAME, content_of, load
from edge_agent.errors import DeployError, InputError

log = logging.getLogger(__name__)

MARGIN_BYTES: Final = 256 * 1024 * 1024  # of the disk, left to others
_PART: Final = ".part"
_NEW: Final = ".new"
_READ: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Shelf:
    """The directory `root`, for one process; `fixed` are bundles that it was started with, whose files may be taken.

    Raises InputError where the directory cannot be used, or another process has it.
    """

    def __init__(
        self, root: Path, *, fixed: Sequence[Path] = (), disk: Disk | None = None, margin_bytes: int = MARGIN_BYTES
    ) -> None:
        self.root = root
        self.bundles = root / "bundles"
        self.incoming = root / "incoming"
        self.disk = Disk() if disk is None else disk
        self._fixed = tuple(fixed)
        self._margin_bytes = margin_bytes
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(root / "lock")
        except OSError as error:
            raise InputError(f"deployments cannot be kept in {root}: {error}: choose another --deployments") from None
        try:
            for folder in (self.bundles, self.incoming):
                if not folder.is_dir():
                    self.disk.mkdir(folder)
            self._remove_leftovers()
            self.record = load(root, self.bundles, self._fixed, self.disk)
        except OSError as error:
            self.close()
            raise InputError(f"deployments cannot be kept in {root}: {error}: choose another --deployments") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process have the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def save(self, record: Record) -> None:
        """Make this the record, whole or not at all. Raises OSError."""
        self._write(self.root / RECORD_NAME, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        self.record = record

    def folder(self, name: str) -> Path:
        """Where the bundle of that folder name is, or would be."""
        return self.bundles / name

    # --- files for the next bundle ----------------------------------------------------------------------

    def part(self, sha256: str) -> Path:
        """Where what comes of a file is written."""
        return self.incoming / (sha256 + _PART)

    def has(self, sha256: str) -> bool:
        """Whether the whole file is in `incoming`."""
        return (self.incoming / sha256).exists()

    def whole(self, sha256: str) -> None:
        """The part is the whole file, and synced: give it its name. If a power cut takes that, it is a part again."""
        self.disk.rename(self.part(sha256), self.incoming / sha256)

    def read(self, sha256: str) -> bytes:
        """A small file of `incoming`."""
        return (self.incoming / sha256).read_bytes()

    def manifest_of(self, folder: str) -> bytes | None:
        """The manifest of a whole bundle; None where there is none."""
        try:
            return (self.folder(folder) / MANIFEST_NAME).read_bytes()
        except FileNotFoundError:
            return None

    def still_needed(self, wanted: Mapping[str, int], rest: Callable[[float], None] = lambda _: None) -> dict[str, int]:
        """Which of these files, with their sizes, are not here yet, after copying what other bundles have of them.

        `rest(0)` is called between files, and may raise. Raises DeployError where the disk has too little room, with
        the figures.
        """
        missing = {sha256: size for sha256, size in wanted.items() if not self.has(sha256)}
        self._check_room(self.left(missing))
        have = self._on_disk(missing)
        needed = {}
        for sha256, size in missing.items():
            rest(0)
            if not any(self._copied(one, sha256) for one in have[sha256]):
                needed[sha256] = size
        return needed

    def left(self, missing: Mapping[str, int]) -> int:
        """How many bytes of these, with their sizes, are still to come."""
        return sum(max(size - _size(self.part(one)), 0) for one, size in missing.items())

    def came(self, wanted: Mapping[str, int]) -> int:
        """How many bytes of these, with their sizes, have come over the network; what a bundle here has was copied."""
        have = self._on_disk(wanted)
        return sum(_size(self.incoming / one) or _size(self.part(one)) for one in wanted if not have[one])

    def forget_incoming(self, keep: Mapping[str, int] | None = None) -> None:
        """Remove what was fetched and is not one of `keep`. What a power cut brings back is removed another time."""
        for path in _entries(self.incoming):
            if path.name.removesuffix(_PART) not in (keep or {}):
                self.disk.unlink(path)

    def assemble(self, folder: str, files: Mapping[str, str]) -> Path:
        """The new bundle `folder` of these files (SHA-256 by path), all of which are in `incoming`."""
        target, new = self.folder(folder), self.bundles / _NEW
        self._remove(new)
        self.disk.mkdir(new)
        folders = sorted({parent for path in files for parent in Path(path).parents if parent != Path(".")})
        for one in folders:  # parents sort before what is in them
            self.disk.mkdir(new / one)
        for path, sha256 in files.items():
            self._place(self.incoming / sha256, new / path)
        for one in [*reversed(folders), Path(".")]:
            self.disk.sync_directory(new / one)
        self.disk.rename(new, target)
        self.disk.sync_directory(self.bundles)
        self.forget_incoming()
        return target

    def tidy(self, keep: frozenset[str]) -> None:
        """Remove all bundles but those in these folders, and all of `incoming`."""
        for path in _entries(self.bundles):
            if path.name not in keep:
                gone = path if path.name.startswith(".") else self.bundles / f".old-{path.name}"
                if gone != path:
                    self._remove(gone)
                    self.disk.rename(path, gone)
                    self.disk.sync_directory(self.bundles)  # before anything inside goes: else a part would look whole
                self._remove(gone)
        self.forget_incoming()

    # --- inside -----------------------------------------------------------------------------------------

    def _write(self, path: Path, payload: bytes) -> None:
        new = path.with_name(path.name + _NEW)
        with contextlib.suppress(FileNotFoundError):
            self.disk.unlink(new)
        handle = self.disk.create(new)
        try:
            self.disk.write(handle, payload)
            self.disk.sync(handle)
        finally:
            self.disk.close(handle)
        self.disk.rename(new, path)
        self.disk.sync_directory(path.parent)

    def _check_room(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.root).free
        if free_bytes < needed_bytes + self._margin_bytes:
            raise DeployError(
                f"{needed_bytes} bytes and {self._margin_bytes} to spare are needed on the disk of {self.root}, "
                f"{free_bytes} are free: make room"
            )

    def _on_disk(self, wanted: Mapping[str, int]) -> dict[str, list[Path]]:
        """Files of bundles that are said to be these, by hash."""
        found: dict[str, list[Path]] = {sha256: [] for sha256 in wanted}
        for root in (*_entries(self.bundles), *self._fixed):
            if (content := content_of(root)) is not None:
                for file in content.files:
                    if wanted.get(file.sha256) == file.bytes:
                        found[file.sha256].append(root / file.path)
        return found

    def _copied(self, source: Path, sha256: str) -> bool:
        """Copy a file into `incoming`; False where it is not what it should be, or cannot be read."""
        part = self.part(sha256)
        with contextlib.suppress(FileNotFoundError):
            self.disk.unlink(part)
        try:
            reader = os.open(source, _READ)
        except OSError:
            return False
        handle = -1
        try:
            if not stat.S_ISREG(os.fstat(reader).st_mode):
                return False
            handle = self.disk.create(part)
            shares = self.disk.clone(handle, reader)
            digest = hashlib.sha256()
            while chunk := os.read(reader, CHUNK_BYTES):
                digest.update(chunk)
                if not shares:
                    self.disk.write(handle, chunk)
            self.disk.sync(handle)
        finally:
            os.close(reader)
            if handle >= 0:
                self.disk.close(handle)
        if digest.hexdigest() != sha256:
            log.warning("%s is not what its bundle says of it: it is fetched instead", source)
            self.disk.unlink(part)
            return False
        self.whole(sha256)
        return True

    def _place(self, source: Path, target: Path) -> None:
        """One more name for what was fetched; where the file system has no links, a copy."""
        try:
            self.disk.link(source, target)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            handle = self.disk.create(target)
            try:
                with source.open("rb") as file:
                    while chunk := file.read(CHUNK_BYTES):
                        self.disk.write(handle, chunk)
                self.disk.sync(handle)
            finally:
                self.disk.close(handle)

    def _remove(self, path: Path) -> None:
        """A directory that is no bundle any more, with all in it; links are removed, not followed."""
        if not os.path.lexists(path):
            return
        if path.is_symlink() or not path.is_dir():
            self.disk.unlink(path)
            return
        for one in _entries(path):
            self._remove(one)
        self.disk.rmdir(path)

    def _remove_leftovers(self) -> None:
        for path in _entries(self.bundles):
            if path.name.startswith("."):
                log.info("removing %s, which was left half done", path)
                self._remove(path)
        with contextlib.suppress(FileNotFoundError):
            self.disk.unlink(self.root / (RECORD_NAME + _NEW))


def _locked(path: Path) -> int:
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(f"{path.parent} is used by another agent: give each its own --deployments") from None
    return handle


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
