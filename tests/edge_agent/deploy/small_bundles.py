"""Bundles of a few bytes, a fetcher that has them, a service that serves them, and a node made of these."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.bundle import Bundle, bundle_id, encode_manifest
from edge_agent.deploy import events
from edge_agent.deploy.carrier import Carrier
from edge_agent.deploy.disk import Disk
from edge_agent.deploy.events import Event
from edge_agent.deploy.fetch import Fetcher, Stop
from edge_agent.deploy.partial import Blob, Partial
from edge_agent.deploy.shelf import Shelf
from edge_agent.errors import AgentError, BundleError, FetchBroken
from edge_agent.manifest import BundleFile, Graph, Manifest
from edge_agent.samples import SamplesScore
from hub import wire
from tests.edge_agent.conftest import draft_manifest

SOURCE = "http://127.0.0.1:9"
GRAPH = Graph(path="model/decoder.onnx", dialect="ort", inputs=("input_ids",), outputs=("logits",))


class Small(msgspec.Struct, frozen=True):
    """A bundle of a few bytes: its manifest, and all its blobs by hash."""

    manifest: Manifest
    payload: bytes
    blobs: dict[str, bytes]

    @property
    def id(self) -> str:
        return self.manifest.bundle_id

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()

    def write(self, folder: Path) -> Path:
        for file in self.manifest.files:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.blobs[file.sha256])
        (folder / "manifest.json").write_bytes(self.payload)
        return folder


def small(version: int, *, weights: bytes | None = None, tokenizer: bytes = b"{}", **fields: Any) -> Small:
    """Version `version` of the model `tiny`; each has weights of its own and shares the tokenizer."""
    weights = b"weights of %d " % version * 20 if weights is None else weights
    files = {GRAPH.path: weights, "tokenizer/tokenizer.json": tokenizer, "tokenizer/chat_template.jinja": b"{{ x }}"}
    listed = tuple(
        BundleFile(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in files.items()
    )
    manifest = msgspec.structs.replace(draft_manifest(GRAPH), version=version, files=listed, **fields)
    manifest = msgspec.structs.replace(manifest, bundle_id=bundle_id(manifest))
    payload = encode_manifest(manifest)
    blobs = {hashlib.sha256(data).hexdigest(): data for data in (*files.values(), payload)}
    return Small(manifest, payload, blobs)


def desired_of(bundle: Small, epoch: int, **fields: Any) -> wire.Desired:
    """The Desired of this bundle, in the place of the model `tiny`."""
    said = wire.Desired(
        epoch=epoch,
        rollout=f"r{epoch}",
        bundle=bundle.id,
        version=bundle.manifest.version,
        replaces="tiny",
        manifest=bundle.sha256,
        size_bytes=sum(map(len, bundle.blobs.values())),
        sources=(SOURCE,),
    )
    return msgspec.structs.replace(said, **fields)


def check(path: Path) -> Bundle:
    """Open a small bundle, whole or not at all."""
    try:
        manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)
        found = {one.relative_to(path).as_posix(): one.read_bytes() for one in path.rglob("*") if one.is_file()}
    except (OSError, msgspec.DecodeError) as error:
        raise BundleError(f"{path}: {error}") from None
    for file in manifest.files:
        if hashlib.sha256(found.pop(file.path, b"?")).hexdigest() != file.sha256:
            raise BundleError(f"{path}: {file.path} is not what it should be")
    if set(found) - {"manifest.json", "model.sig"}:
        raise BundleError(f"{path}: {sorted(found)} are too many")
    return Bundle(path, manifest)


class DictFetcher(Fetcher):
    """Has these blobs, and gives them in pieces."""

    def __init__(self, *bundles: Small, disk: Disk | None = None) -> None:
        super().__init__(None)
        self.blobs = {sha256: data for one in bundles for sha256, data in one.blobs.items()}
        self.disk = Disk() if disk is None else disk
        self.fetched: list[str] = []

    def fetch(self, blob: Blob, sources: Sequence[str], part: Path, on_bytes: Callable[[int], None], stop: Stop) -> int:
        stop.wait(0)
        partial = Partial(blob, part, self.disk)
        partial.open(SOURCE)
        try:
            if not sources or blob.sha256 not in self.blobs:
                raise FetchBroken("nobody answers")
            data = self.blobs[blob.sha256]
            if data[: partial.have] != part.read_bytes():  # a torn part: as the real one does, begin anew
                partial.answered(200, {})
            for start in range(partial.have, len(data), 100):
                piece = data[start : start + 100]
                partial.add(piece)
                on_bytes(len(piece))
            self.fetched.append(blob.sha256)
        finally:
            partial.close()
        return partial.finish(SOURCE)


class FakeHost:
    """A service: what is open, what serves each model, and what it was told."""

    def __init__(self, serving: Mapping[str, str], *, fixed: Mapping[str, str] | None = None) -> None:
        self.serving = dict(serving)
        self.fixed = dict(fixed or {})
        self.open = set(serving.values())
        self.calls: list[tuple[str, ...]] = []
        self.reports: list[wire.Deployment] = []
        self.score: SamplesScore | AgentError | None = None
        self.bad: set[str] = set()  # bundles that cannot be warmed
        self.before: dict[str, str] = {}
        self.ratio: float | None = 1.0  # actual by predicted compute, as the bundle before predicts it

    def warm(self, bundle: Bundle) -> SamplesScore | None:
        self.calls.append(("warm", bundle.manifest.bundle_id))
        if bundle.manifest.bundle_id in self.bad:
            raise BundleError("its graph cannot be run")
        self.open.add(bundle.manifest.bundle_id)
        return self._scored()

    def compare(self, bundle: str) -> SamplesScore | None:
        self.calls.append(("compare", bundle))
        assert bundle in self.open
        return self._scored()

    def time(self, bundle: str, before: str) -> float | None:
        self.calls.append(("time", bundle, before))
        return self.ratio if {bundle, before} <= self.open else None

    def _scored(self) -> SamplesScore | None:
        if isinstance(self.score, AgentError):
            raise self.score
        return self.score

    def switch(self, bundle: str, replaces: str) -> None:
        self.calls.append(("switch", bundle, replaces))
        assert bundle in self.open
        if replaces in self.serving:
            self.before[replaces] = self.serving[replaces]
        self.serving[replaces] = bundle

    def settle(self, bundle: str, replaces: str) -> None:
        self.calls.append(("settle", bundle, replaces))
        self.open.discard(self.before.pop(replaces, ""))

    def go_back(self, bundle: str, replaces: str, to: Path | None) -> None:
        self.calls.append(("go_back", bundle, replaces, "" if to is None else to.name))
        self.open.discard(bundle)
        del self.serving[replaces]
        if to is not None:
            self.serving[replaces] = check(to).manifest.bundle_id
        elif replaces in self.fixed:
            self.serving[replaces] = self.fixed[replaces]
        self.open.update(self.serving.values())

    def release(self, bundle: str) -> None:
        self.calls.append(("release", bundle))
        self.open.discard(bundle)

    def report(self, deployment: wire.Deployment) -> None:
        self.reports.append(deployment)


class Node:
    """A process of a node without threads: opens what the record says, then takes events until nothing is left to do.

    `now` stands still unless it is set.
    """

    def __init__(
        self, root: Path, fetcher: DictFetcher, *, fixed: Sequence[Path] = (), disk: Disk | None = None
    ) -> None:
        self.now = 0.0
        self.waiting: list[Event] = []
        if disk is not None:
            fetcher.disk = disk
        bundles = [check(path) for path in fixed]
        self.shelf = Shelf(root, fixed=fixed, disk=disk, margin_bytes=0)
        self.carrier = Carrier(
            self.shelf,
            fetcher,
            check,
            fixed=bundles,
            free_memory=lambda: 1 << 40,
            tell=self.waiting.append,
            clock=lambda: self.now,
        )
        ids = {bundle.manifest.model.name: bundle.manifest.bundle_id for bundle in bundles}
        try:
            self._open(ids)
        except BaseException:
            self.die()
            raise

    def _open(self, ids: dict[str, str]) -> None:
        self.carrier.take(events.Started(), self.now)
        serving = dict(ids)
        for replaces in list(self.carrier.state.record.slots):
            while (placed := self.carrier.state.record.slots[replaces].serving) is not None:
                try:
                    serving[replaces] = check(self.shelf.folder(placed.folder)).manifest.bundle_id
                    break
                except BundleError as error:
                    self.carrier.take(events.CouldNotOpen(replaces, str(error)), self.now)
        self.host = FakeHost(serving, fixed=ids)
        self.carrier.host = self.host

    def take(self, *taken: Event) -> None:
        """Take these and all that follows from them."""
        self.waiting += taken
        while self.waiting:
            for work in self.carrier.take(self.waiting.pop(0), self.now):
                if (event := work()) is not None:
                    self.waiting.append(event)

    def pass_time(self, seconds: float) -> None:
        """Let this time pass, and look at the clock."""
        self.now += seconds
        self.take(events.TimePassed())

    def deploy(self, desired: wire.Desired) -> None:
        """Take it to the end of its trial."""
        self.take(events.Resumed(), events.DesiredReceived(desired))
        for _ in range(3):  # half of the trial for the samples, the other half, and one look
            self.pass_time(desired.trial.seconds)

    @property
    def phase(self) -> str:
        return self.carrier.state.record.phase

    @property
    def why(self) -> str:
        return self.carrier.state.record.why

    @property
    def folders(self) -> list[str]:
        return sorted(path.name for path in self.shelf.bundles.iterdir())

    def die(self) -> None:
        """End without a close, as the kernel would: only the lock is gone."""
        self.shelf.close()

    def close(self) -> None:
        """End in good order."""
        self.take(events.Closed())
        self.shelf.close()
