"""What does a node know of its deployments when it starts? Reads the record, or makes one of the bundles on disk.

A record that cannot be read is moved aside, never written over. Knows nothing of networks or phases.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.bundle_paths import MANIFEST_NAME, MAX_MANIFEST_BYTES
from edge_agent.deploy.content import Content, read_content
from edge_agent.deploy.disk import Disk
from edge_agent.deploy.record import Placed, Record, Slot, folder_name
from edge_agent.errors import DeployError, InputError

log = logging.getLogger(__name__)

RECORD_NAME: Final = "record.json"
SCHEMA: Final = 1

_decoder = msgspec.json.Decoder(Record)


class _Schema(msgspec.Struct):
    schema: int


def load(root: Path, bundles: Path, fixed: Sequence[Path], disk: Disk) -> Record:
    """The record in `root`, held against the folders in `bundles`. Raises OSError, and InputError for one of a
    newer edgefleet: what it says must not be lost.
    """
    path = root / RECORD_NAME
    try:
        payload = path.read_bytes()
        _refuse_newer(path, payload)
        record = _decoder.decode(payload)
    except FileNotFoundError:
        if not any(bundles.iterdir()):
            return Record()
        log.warning("%s is not there, although bundles are: beginning from these", path)
        return _rebuilt(bundles, fixed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        aside = path.with_name(f"{RECORD_NAME}.unreadable")
        log.warning("%s cannot be read (%s): moved to %s, beginning from the bundles here", path, error, aside.name)
        disk.rename(path, aside)
        return _rebuilt(bundles, fixed)
    return _with_what_is_here(record, bundles)


def _refuse_newer(path: Path, payload: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        schema = msgspec.json.decode(payload, type=_Schema).schema
        if schema > SCHEMA:
            raise InputError(
                f"{path} has schema {schema}, this edgefleet reads {SCHEMA}: install the one that wrote it, "
                "or choose another --deployments"
            )


def content_of(bundle: Path) -> Content | None:
    """What the manifest of a bundle here says; None where it says nothing that can be used."""
    try:
        with (bundle / MANIFEST_NAME).open("rb") as file:
            return read_content(file.read(MAX_MANIFEST_BYTES + 1))
    except (OSError, DeployError):
        return None


def _with_what_is_here(record: Record, bundles: Path) -> Record:
    """A folder that somebody removed serves nobody; the one before it does."""
    slots = {}
    for replaces, slot in record.slots.items():
        trial, current, previous = (_here(one, bundles) for one in (slot.trial, slot.current, slot.previous))
        if current is None and slot.current is not None:
            current, previous = previous, None
        slots[replaces] = Slot(trial=trial, current=current, previous=previous)
    if record.phase == "trial" and all(slot.trial is None for slot in slots.values()):
        why = "the folder of the bundle on trial is gone"
        record = msgspec.structs.replace(record, phase="undone", why=why)
    desired = record.desired
    if record.phase == "serving" and desired is not None and desired.replaces in slots:
        before, now = record.slots[desired.replaces].current, slots[desired.replaces].current
        if before != now:
            why = "the folder of the bundle that served is gone"
            record = msgspec.structs.replace(record, phase="undone", why=why)
    return msgspec.structs.replace(record, slots=slots)


def _here(placed: Placed | None, bundles: Path) -> Placed | None:
    if placed is None or (bundles / placed.folder).is_dir():
        return placed
    log.warning("%s is gone from %s", placed.folder, bundles)
    return None


def _rebuilt(bundles: Path, fixed: Sequence[Path]) -> Record:
    """Of each model the lowest version here serves, a fixed one before any: it was confirmed once.

    What is newer was perhaps on trial; the hub's retained Desired brings it again, to be checked and tried anew. The
    epoch is lost, and with it the memory of Desired that were replaced.
    """
    given = {content.model.name for content in map(content_of, fixed) if content is not None}
    lowest: dict[str, Placed] = {}
    for path in sorted(bundles.iterdir()):
        content = content_of(path)
        if content is None or content.model.name in given:
            continue
        name = content.model.name
        manifest = hashlib.sha256((path / MANIFEST_NAME).read_bytes()).hexdigest()
        if path.name != folder_name(content.bundle_id, content.version, manifest):
            log.warning("%s is no folder of this agent's: left alone", path)
        elif name not in lowest or content.version < lowest[name].version:
            lowest[name] = Placed(
                bundle=content.bundle_id,
                version=content.version,
                manifest=manifest,
                model=name,
                folder=path.name,
                rollout="unknown",
                is_first=True,
            )
    slots = {model: Slot(current=placed) for model, placed in lowest.items()}
    return Record(slots=slots, highest={model: placed.version for model, placed in lowest.items()})
