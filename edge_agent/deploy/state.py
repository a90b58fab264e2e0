"""The state of a node's deployment, and how parts of it are changed. Pure; what changes it is in `plan.py`."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_agent.deploy import health
from edge_agent.deploy.events import Facts, Fixed
from edge_agent.deploy.record import Placed, Record, Slot, folder_name
from hub import wire


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A node's deployment: the durable record, and what a restart may forget.

    `seen` is of the bundle on trial, `others` of bundles by id; `facts` are of the bundle under way; `note` is what is
    to be told beside the record's own `why`.
    """

    record: Record
    fixed: tuple[Fixed, ...] = ()
    is_up: bool = False
    is_quiet: bool = False
    seen: health.Seen = health.Seen()
    others: dict[str, health.Seen] = {}
    facts: Facts | None = None
    trial_since: float = 0.0
    compared: bool = False
    comparing: bool = False
    retry_at: float = 0.0
    tries: int = 0
    fetched_bytes: int = 0
    progress: float = 0.0
    note: str = ""


def deployment(state: State) -> wire.Deployment | None:
    """What the node tells of it; None before the first Desired."""
    record, desired = state.record, state.record.desired
    if desired is None:
        return None
    return wire.Deployment(
        epoch=desired.epoch,
        rollout=desired.rollout,
        bundle=desired.bundle,
        version=desired.version,
        phase=record.phase,
        progress=1.0 if record.phase == "serving" else state.progress,
        why="; ".join(filter(None, (record.why, state.note)))[: wire.MAX_WHY_CHARS],
        fetched_bytes=state.fetched_bytes,
        answered=state.seen.answered,
        failed=state.seen.failed,
        slower=health.slower(state.seen, seen_before(state)),
        quiet=record.phase == "waiting" and state.is_quiet,
    )


def bundle_before(state: State) -> str | None:
    """The bundle that the one on trial took the place of."""
    replaces = state.record.desired.replaces if state.record.desired is not None else ""
    current = state.record.slots.get(replaces, Slot()).current
    fixed = next((one.bundle for one in state.fixed if one.model == replaces), None)
    return fixed if current is None else current.bundle


def seen_before(state: State) -> health.Seen:
    """What was seen of that bundle."""
    return state.others.get(bundle_before(state) or "", health.Seen())


def changed(state: State, **changes: Any) -> State:
    """With other values of some fields."""
    return msgspec.structs.replace(state, **changes)


def in_phase(state: State, phase: wire.Phase, *, why: str = "") -> State:
    """In another phase, with its reason."""
    return changed(state, record=msgspec.structs.replace(state.record, phase=phase, why=one_line(why)))


def with_slot(state: State, replaces: str, **changes: Placed | None) -> dict[str, Slot]:
    """All slots, with changes to the one of the model `replaces`."""
    slots = state.record.slots
    return {**slots, replaces: msgspec.structs.replace(slots.get(replaces, Slot()), **changes)}


def folder_of(desired: wire.Desired) -> str:
    """Where the desired bundle lies, or will."""
    name = folder_name(desired.bundle, desired.version, desired.manifest)
    assert name is not None  # a Desired of another name was refused
    return name


def one_line(why: str) -> str:
    """As it can be told."""
    return " ".join(why.split())[: wire.MAX_WHY_CHARS]
