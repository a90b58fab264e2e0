"""How does a change get onto the disk? Every operation by which shelf and fetcher change anything, one method each.

Thin on purpose: a test puts itself in its place to kill the process at each operation, or to lose what was not synced.
Knows nothing of bundles.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_FICLONE: Final = 0x40049409  # linux/fs.h: share the other file's extents until one of them is written
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_MORE: Final = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)


class Disk:
    """The real one. Every method may raise OSError."""

    def mkdir(self, path: Path) -> None:
        """A new directory."""
        os.mkdir(path)

    def create(self, path: Path) -> int:
        """A new file to write, as a descriptor."""
        return os.open(path, _NEW, 0o644)

    def append(self, path: Path) -> int:
        """A file that is there, to write at its end."""
        return os.open(path, _MORE)

    def write(self, handle: int, data: bytes) -> None:
        """All of `data`."""
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def clone(self, handle: int, source: int) -> bool:
        """Make the empty file a copy that shares the blocks of `source` until one is written; False if it cannot."""
        try:
            import fcntl

            fcntl.ioctl(handle, _FICLONE, source)
        except (ImportError, OSError):
            return False
        return True

    def sync(self, handle: int) -> None:
        """The content of a file is on the disk."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """The descriptor is given back; that makes nothing durable."""
        os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Another name, in place of what had it."""
        os.replace(old, new)

    def link(self, old: Path, new: Path) -> None:
        """One more name for a file."""
        os.link(old, new)

    def unlink(self, path: Path) -> None:
        """One name less."""
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        """An empty directory is gone."""
        os.rmdir(path)

    def sync_directory(self, path: Path) -> None:
        """The names in a directory are on the disk."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
