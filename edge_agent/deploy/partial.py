"""What has come of one file: the `.part` on disk, its hash so far, who gave it, and what to make of an answer.

Knows HTTP's status and headers, no sockets.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.deploy.disk import Disk
from edge_agent.errors import DeployError

_RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})\Z")


class Blob(msgspec.Struct, frozen=True):
    """A file by its hash; it has `size_bytes`, or, where that is not `exact`, at most so many."""

    sha256: str
    size_bytes: int
    exact: bool = True


class Wrong(Exception):
    """This source does not have the file; asking it again is of no use."""


class Broken(Exception):
    """This time it did not come."""


class Partial:
    """One file over several requests; bytes of two sources are not mixed once that went wrong.

    Raises DeployError wherever the disk does not take it.
    """

    def __init__(self, blob: Blob, part: Path, disk: Disk) -> None:
        self.blob = blob
        self.received = 0  # over the network, so far
        self.have = 0
        self.was_wrong = False
        self._part = part
        self._disk = disk
        self._handle = -1
        self._digest = hashlib.sha256()
        self._writers: set[str] = set()  # who gave what the part has; "" is an earlier process
        self._source = ""
        self._is_read = False

    @property
    def is_complete(self) -> bool:
        """Whether no byte is missing, by the size that was said."""
        return self.blob.exact and self.have == self.blob.size_bytes

    def open(self, source: str) -> None:
        """Go on with the part, or begin one."""
        self._source = source
        if not self._is_read:
            self._read_part()
        if not self.blob.exact or (self.was_wrong and self._writers - {source}):
            self._drop()
        with self._on_disk():
            self._handle = (self._disk.append if self._part.exists() else self._disk.create)(self._part)

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """See what the server says that it sends. Raises Wrong, Broken."""
        size, said = self.blob.size_bytes, headers.get("Content-Length", "")
        if status == 206 and self.have:
            found = _RANGE.match(headers.get("Content-Range", ""))
            if found is None or tuple(map(int, found.groups())) != (self.have, size - 1, size):
                raise Wrong(f"asked for bytes from {self.have} of {size}, and was promised others")
            return
        if status == 200:
            if said.isdigit() and (int(said) > size or (self.blob.exact and int(said) != size)):
                raise Wrong(f"{said} bytes are promised, {'' if self.blob.exact else 'at most '}{size} are expected")
            if self.have:  # it knows no ranges
                self._drop()
                with self._on_disk():
                    self._handle = self._disk.create(self._part)
            return
        if status == 416 and self.have:
            self._drop()
        elif 300 <= status < 400:
            raise Wrong(f"sends elsewhere (HTTP {status}), and is not followed")
        raise Broken(f"HTTP {status}")

    def add(self, chunk: bytes) -> None:
        """Write a piece, unless there is more than there should be."""
        if self.have + len(chunk) > self.blob.size_bytes:
            self._drop()
            raise Wrong(f"sends more than {self.blob.size_bytes} bytes")
        with self._on_disk():
            self._disk.write(self._handle, chunk)
        self._digest.update(chunk)
        self._writers.add(self._source)
        self.have += len(chunk)
        self.received += len(chunk)

    def ended(self) -> None:
        """The server has sent all that it meant to."""
        if self.blob.exact and not self.is_complete:
            raise Broken(f"ended after {self.have} of {self.blob.size_bytes} bytes")

    def finish(self, source: str) -> int:
        """The file is whole and synced, or was not the right one. Raises Wrong or Broken."""
        self.close()
        if self._digest.hexdigest() == self.blob.sha256:
            with self._on_disk():
                self._handle = self._disk.append(self._part)
                self._disk.sync(self._handle)
            self.close()
            return self.have
        alone = self._writers <= {source} and bool(self._writers)
        self.was_wrong = True
        self._drop()
        if alone:
            raise Wrong("gives other bytes than were asked for")
        raise Broken("what had come before was not right: beginning anew")

    def close(self) -> None:
        """Give the descriptor back; what was written stays."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            self._disk.close(handle)

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DeployError(f"{self._part} cannot be written: {error}") from None

    def _read_part(self) -> None:
        """Hash what an earlier process left."""
        self._is_read = True
        if not self._part.exists():
            return
        with self._on_disk(), self._part.open("rb") as file:
            while chunk := file.read(1024 * 1024):
                self._digest.update(chunk)
                self.have += len(chunk)
                self._writers.add("")
        if self.have > self.blob.size_bytes:
            self._drop()

    def _drop(self) -> None:
        self.close()
        with self._on_disk(), contextlib.suppress(FileNotFoundError):
            self._disk.unlink(self._part)
        self.have, self._digest, self._writers = 0, hashlib.sha256(), set()
