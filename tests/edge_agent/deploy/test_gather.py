"""All files of a bundle come onto the shelf, the manifest first, over a real connection."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.deploy.fetch import Fetcher, Stop, Stopped
from edge_agent.deploy.gather import describe, facts_of, gather
from edge_agent.deploy.record import folder_name
from edge_agent.deploy.shelf import Shelf
from edge_agent.errors import DeployError
from hub import wire
from tests.edge_agent.deploy.blob_server import BlobServer
from tests.edge_agent.deploy.small_bundles import check, desired_of, small

V2, V3 = small(2), small(3)
SIGNATURE = b"signature of version 3"


@pytest.fixture
def server() -> Iterator[BlobServer]:
    one = BlobServer(*V2.blobs.values(), *V3.blobs.values(), SIGNATURE)
    yield one
    one.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    one = Shelf(tmp_path / "d", margin_bytes=0)
    yield one
    one.close()


FETCHER = Fetcher(None, pause=lambda tries, draw: 0.0)


def brought(shelf: Shelf, desired: wire.Desired) -> tuple[str, list[tuple[int, float]]]:
    """The folder, and what was heard on the way."""
    folder = folder_name(desired.bundle, desired.version, desired.manifest)
    assert folder is not None
    heard: list[tuple[int, float]] = []
    assert facts_of(describe(shelf, FETCHER, desired, folder, Stop())).version == desired.version
    gather(shelf, FETCHER, desired, folder, Stop(), lambda size, share: heard.append((size, share)))
    return folder, heard


def test_a_signed_bundle_comes_whole_and_the_next_one_brings_what_is_new(shelf: Shelf, server: BlobServer) -> None:
    """Manifest, signature and files; of the next version the manifest and the weights."""
    brought(shelf, desired_of(V2, 1, sources=(server.url,)))
    before = server.sent
    signed = hashlib.sha256(SIGNATURE).hexdigest()
    folder, heard = brought(shelf, desired_of(V3, 2, sources=(server.url,), signature=signed))
    assert check(shelf.folder(folder)).manifest == V3.manifest
    assert (shelf.folder(folder) / "model.sig").read_bytes() == SIGNATURE
    new = len(SIGNATURE) + V3.manifest.files[0].bytes
    assert server.sent - before == len(V3.payload) + new
    assert heard[0][0] == len(V3.payload)
    assert heard[-1] == (len(V3.payload) + new, 1.0)
    assert [share for _, share in heard] == sorted(share for _, share in heard)
    requests = len(server.ranges)
    brought(shelf, desired_of(V3, 2))  # it is there: nobody is asked
    assert len(server.ranges) == requests


def test_what_was_fetched_for_another_bundle_goes(shelf: Shelf, server: BlobServer) -> None:
    """A newer Desired came in the middle: of the old one only what both need stays."""
    (shelf.incoming / ("0" * 64)).write_bytes(b"of no use")
    shelf.part("1" * 64).write_bytes(b"of no use either")
    brought(shelf, desired_of(V2, 1, sources=(server.url,)))
    assert list(shelf.incoming.iterdir()) == []


def test_who_stops_it_finds_what_came(shelf: Shelf, server: BlobServer) -> None:
    """No bundle, but the files that came whole."""
    desired, stop = desired_of(V2, 1, sources=(server.url,)), Stop()
    folder = folder_name(V2.id, 2, V2.sha256)
    assert folder is not None
    describe(shelf, FETCHER, desired, folder, stop)
    with pytest.raises(Stopped):
        gather(shelf, FETCHER, desired, folder, stop, lambda size, share: stop.set() if size else None)
    assert not shelf.folder(folder).exists()
    assert len(list(shelf.incoming.iterdir())) >= 1


def test_what_came_before_a_restart_is_counted(shelf: Shelf, server: BlobServer) -> None:
    """As part of a file and as a whole one; what another bundle here has did not travel."""
    brought(shelf, desired_of(V2, 1, sources=(server.url,)))
    weights = V3.manifest.files[0]
    shelf.part(weights.sha256).write_bytes(V3.blobs[weights.sha256][:30])
    shared = V3.manifest.files[1]
    (shelf.incoming / shared.sha256).write_bytes(V3.blobs[shared.sha256])  # copied by the process before
    _, heard = brought(shelf, desired_of(V3, 2, sources=(server.url,)))
    assert heard[0][0] == len(V3.payload) + 30
    assert heard[0][1] == pytest.approx(1 - (weights.bytes - 30) / sum(file.bytes for file in V3.manifest.files))
    assert heard[-1] == (len(V3.payload) + weights.bytes, 1.0)


def test_eight_digits_of_a_hash_are_no_identity(shelf: Shelf, server: BlobServer) -> None:
    """A folder of that name with another manifest is not taken for the desired one."""
    desired = desired_of(V2, 1, sources=(server.url,))
    folder, _ = brought(shelf, desired)
    other = msgspec.structs.replace(desired, manifest=desired.manifest[:8] + "0" * 56)
    with pytest.raises(DeployError, match="is desired"):
        describe(shelf, FETCHER, other, folder, Stop())
