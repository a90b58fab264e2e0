"""Brings all files of a desired bundle onto the shelf: the manifest first, then what no bundle here has.

Knows nothing of phases, nor whether the bundle may run: what is fetched has the hash that was asked for, no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from edge_agent.bundle_paths import MANIFEST_NAME, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE_NAME
from edge_agent.deploy.content import Content, blobs, read_content
from edge_agent.deploy.events import Facts
from edge_agent.deploy.fetch import Fetcher, Stop
from edge_agent.deploy.partial import Blob
from edge_agent.deploy.shelf import Shelf
from edge_agent.errors import DeployError
from hub import wire

Heard = Callable[[int, float], None]  # bytes that came over the network until now, and the share of all that is here
NEWS_BYTES: Final = 1024 * 1024


def facts_of(content: Content) -> Facts:
    """What the manifest says of itself."""
    return Facts(content.bundle_id, content.version, content.model.name, content.downgrade_from)


def describe(shelf: Shelf, fetcher: Fetcher, desired: wire.Desired, folder: str, stop: Stop) -> Content:
    """Fetch the manifest, unless the bundle is there already. Raises DeployError, FetchBroken, Stopped."""
    with _disk_errors():
        if (made := shelf.manifest_of(folder)) is not None:
            if (found := hashlib.sha256(made).hexdigest()) != desired.manifest:  # the name has eight of its digits
                raise DeployError(f"{folder} is here with the manifest {found}, and {desired.manifest} is desired")
            return read_content(made)
        _bring(
            shelf, fetcher, Blob(desired.manifest, MAX_MANIFEST_BYTES, exact=False), desired, lambda size: None, stop
        )
        return read_content(shelf.read(desired.manifest))


def gather(shelf: Shelf, fetcher: Fetcher, desired: wire.Desired, folder: str, stop: Stop, heard: Heard) -> None:
    """After `describe`: fetch what is missing and assemble the bundle. Raises DeployError, FetchBroken, Stopped."""
    with _disk_errors():
        if shelf.folder(folder).exists():
            return
        content = read_content(shelf.read(desired.manifest))
        wanted, small = dict(blobs(content)), [desired.manifest]
        files = {file.path: file.sha256 for file in content.files} | {MANIFEST_NAME: desired.manifest}
        if desired.signature is not None:
            files[SIGNATURE_NAME] = desired.signature
            small.append(desired.signature)
        coming = {**wanted, **dict.fromkeys(small, 0)}
        shelf.forget_incoming(coming)
        came_bytes = shelf.came(coming)  # the manifest, and what a process before this one had fetched
        missing = shelf.still_needed(wanted, stop.wait)
        tally = _Tally(sum(wanted.values()), shelf.left(missing), came_bytes, heard)
        if desired.signature is not None:
            _bring(shelf, fetcher, Blob(desired.signature, MAX_SIGNATURE_BYTES, exact=False), desired, tally.came, stop)
        for sha256, size_bytes in missing.items():
            _bring(shelf, fetcher, Blob(sha256, size_bytes), desired, tally.came, stop)
        stop.wait(0)
        shelf.assemble(folder, files)


class _Tally:
    """Adds up what comes, and tells it now and then."""

    def __init__(self, all_bytes: int, left_bytes: int, came_bytes: int, heard: Heard) -> None:
        self._all_bytes, self._left_bytes, self._came_bytes = all_bytes, left_bytes, came_bytes
        self._heard = heard
        self._fetched_bytes = self._told_bytes = 0
        heard(came_bytes, self._share())

    def came(self, size_bytes: int) -> None:
        self._fetched_bytes += size_bytes
        if self._fetched_bytes - self._told_bytes >= NEWS_BYTES or self._fetched_bytes >= self._left_bytes:
            self._told_bytes = self._fetched_bytes
            self._heard(self._came_bytes + self._fetched_bytes, self._share())

    def _share(self) -> float:
        if not self._all_bytes:
            return 1.0
        here_bytes = self._all_bytes - self._left_bytes + self._fetched_bytes
        return min(max(here_bytes / self._all_bytes, 0.0), 1.0)


def _bring(
    shelf: Shelf, fetcher: Fetcher, blob: Blob, desired: wire.Desired, came: Callable[[int], None], stop: Stop
) -> None:
    if not shelf.has(blob.sha256):
        fetcher.fetch(blob, desired.sources, shelf.part(blob.sha256), came, stop)
        shelf.whole(blob.sha256)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeployError(f"the disk does not take the bundle: {error}") from None
