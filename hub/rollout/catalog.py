"""The bundles that a hub can give: each file once, under its SHA-256, and what every bundle consists of.

    blobs/<sha256>                      the files
    bundles/<bundle>-v<version>.json    `Contents`

A bundle is named there once all its files are on the disk, so it is whole or not there, whenever the power goes. One
lock for all that is changed lets several shells deploy at once. Knows nothing of rollouts or nodes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from hub.errors import RolloutError
from hub.rollout.contents import Blob, Contents, name_of, open_file, read_contents
from hub.rollout.kept import read_kept, told
from hub.whole_file import sync, write_whole

CHUNK_BYTES: Final = 1024 * 1024
ADVICE: Final = "remove it, and deploy the bundle again"
_STAGED: Final = ".staged-"
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


class Catalog:
    """The bundles in the directory `root`, which is made with the first of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._bundles = root / "bundles"

    def blob(self, sha256: str) -> Path | None:
        """Where a file lies; None where it is not there, or `sha256` is none."""
        if not _SHA256.match(sha256):
            return None
        path = self._blobs / sha256
        return path if path.is_file() else None

    def all(self) -> list[Contents]:
        """Every bundle, by name. Raises RolloutError."""
        with told(self._bundles):
            paths = sorted(path for path in self._bundles.glob("*.json") if not path.name.startswith("."))
        return [contents for path in paths if (contents := read_kept(path, Contents, ADVICE)) is not None]

    def get(self, bundle: str, version: int) -> Contents | None:
        """A bundle; None where it is not there. Raises RolloutError."""
        return read_kept(self._named(name_of(bundle, version)), Contents, ADVICE)

    def add(self, bundle: Path) -> Contents:
        """Take in the bundle in the directory `bundle`: what is not there yet is copied, and hashed meanwhile.

        Nothing is done where it is there already. Raises RolloutError.
        """
        contents = read_contents(bundle)
        with told(self.root):
            for folder in (self._blobs, self._bundles):
                folder.mkdir(parents=True, exist_ok=True)
        with self.locked(), told(self.root):
            before = read_kept(self._named(contents.name), Contents, ADVICE)
            if before is not None and before.manifest != contents.manifest:
                raise RolloutError(
                    f"{contents.name} is in {self.root} already, and is not the same: export it with a higher version, "
                    f"or, for a downgrade, forget that one first: `edge-hub bundles --remove {contents.name}`"
                )
            for left in self._blobs.glob(f"{_STAGED}*"):  # by a copy that did not come to its end
                left.unlink()
            for file in contents.all_files:
                self._take(bundle, file)
            sync(self._blobs)
            if before != contents:
                self._write(self._named(contents.name), contents)
        return contents

    def remove(self, name: str) -> int:
        """Forget a bundle, and every file that no other one has; how many bytes that frees. Raises RolloutError."""
        with self.locked(), told(self.root):
            path = self._named(name)
            if read_kept(path, Contents, ADVICE) is None:
                raise RolloutError(f"there is no bundle {name!r} in {self.root}: `edge-hub bundles` tells what is")
            path.unlink()
            sync(self._bundles)
            return self._clear()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who changes this directory; waits for another one. Raises RolloutError."""
        with told(self.root):
            file = (self.root / "catalog.lock").open("ab")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # --- inside -----------------------------------------------------------------------------------------

    def _named(self, name: str) -> Path:
        if "/" in name or name.startswith("."):
            raise RolloutError(f"{name!r} names no bundle: `edge-hub bundles` tells what there is")
        return self._bundles / f"{name}.json"

    def _take(self, bundle: Path, file: Blob) -> None:
        """Copy a file, unless what it holds is there: then its bytes are those, whatever lies in `bundle`."""
        target = self._blobs / file.sha256
        if target.is_file() and target.stat().st_size == file.bytes:
            return
        staged = self._blobs / f"{_STAGED}{file.sha256}"
        digest, size = hashlib.sha256(), 0
        with open_file(bundle, file.path) as source, staged.open("wb") as copy:
            while chunk := source.read(CHUNK_BYTES):
                size += len(chunk)
                if size > file.bytes:
                    break
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        if size != file.bytes or digest.hexdigest() != file.sha256:
            staged.unlink()
            raise RolloutError(f"{bundle}: {file.path!r} is not what the manifest says: export the model again")
        staged.replace(target)

    def _write(self, path: Path, contents: Contents) -> None:
        write_whole(path, msgspec.json.format(msgspec.json.encode(contents), indent=2))

    def _clear(self) -> int:
        """Remove files that no bundle has; how many bytes that frees."""
        named = {sha256 for contents in self.all() for sha256 in contents.blobs}
        freed = 0
        for path in list(self._blobs.iterdir()):
            if path.name not in named:
                freed += path.stat().st_size
                path.unlink()
        sync(self._blobs)
        return freed
