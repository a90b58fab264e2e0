"""How does a file or a directory come to be whole or not at all, with nobody else able to read its secrets?

Knows nothing of what they hold.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from hub import whole_file
from hub.errors import ProvisionError
from hub.whole_file import PUBLIC, sync

__all__ = ["PUBLIC", "SECRET", "locked", "make_folder", "write_whole"]

SECRET = 0o600


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Put `data` at `path`: a reader sees all of the old or all of the new."""
    with _told(path):
        whole_file.write_whole(path, data, mode)


def make_folder(path: Path, files: Mapping[str, tuple[bytes, int]], *, replace: bool = False) -> None:
    """A directory that only its owner can enter, with all of `files` (name: bytes and mode), or no directory at all.

    One that is there is refused, or with `replace` takes its leave once the new one is complete.
    """
    with _told(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))  # 0700
        old = staged.with_name(staged.name + "-old")
        try:
            for name, (data, mode) in files.items():
                write_whole(staged / name, data, mode)
            if replace and path.exists():
                path.rename(old)
            _put(staged, path)
            sync(path.parent)
        finally:
            for each in (staged, old):
                shutil.rmtree(each, ignore_errors=True)


def _put(staged: Path, path: Path) -> None:
    try:
        staged.rename(path)  # fails where there is a directory that is not empty
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise ProvisionError(f"{path} was made by somebody else meanwhile, and nothing in it was changed") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One at a time."""
    with _told(folder), (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the file system in one line."""
    try:
        yield
    except OSError as error:
        raise ProvisionError(f"{path}: {error.strerror or error}") from None
