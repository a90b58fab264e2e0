"""What is sent to those who watch: everything to a new one, then only what has changed.

A change is what makes the next picture of the one before: changed fields of changed nodes, the names of nodes that are
gone, questions, slots, and all rollouts where one of them has changed. Pure.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hub.events import STAGES
from hub.web.hour import Slot, Whole

View = dict[str, Any]  # of a node or question, as it is encoded


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in every change."""

    now_s: float  # since the epoch: the page shows times by this clock, never by the browser's
    hub: str
    connected: bool  # the hub to its broker
    in_flight: int
    per_s: float
    hour: Whole


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows; `slots` by their start, questions in the order of their last change."""

    now: Now
    nodes: dict[str, View]
    questions: tuple[View, ...]
    slots: dict[int, Slot]
    rollouts: tuple[View, ...] = ()  # the last one first


def whole(picture: Picture) -> View:
    """All of it, for one who has seen nothing yet."""
    slots = [row_of(slot) for _, slot in sorted(picture.slots.items())]
    return {
        **_now(picture.now),
        "stages": STAGES,
        "nodes": picture.nodes,
        "questions": picture.questions,
        "slots": slots,
        "rollouts": picture.rollouts,
    }


def change(before: Picture | None, after: Picture) -> View:
    """What makes `after` of `before`; slots that left the hour are not told of, since all clocks agree on that."""
    nodes = {} if before is None else before.nodes
    slots = {} if before is None else before.slots
    rollouts = () if before is None else before.rollouts
    known = set() if before is None else {question["number"] for question in before.questions}
    changed = {name: fields for name, view in after.nodes.items() if (fields := _changed(nodes.get(name), view))}
    return {
        **_now(after.now),
        "nodes": changed,
        "gone": [name for name in nodes if name not in after.nodes],
        "questions": [question for question in after.questions if question["number"] not in known],
        "slots": [row_of(slot) for start_s, slot in sorted(after.slots.items()) if slots.get(start_s) is not slot],
        **({} if after.rollouts == rollouts else {"rollouts": after.rollouts}),
    }


def row_of(slot: Slot) -> list[float | int | None]:
    """A slot as the charts take it: when, how many, how many failed, p50, p95, and the stages."""
    percentiles = (None if ms is None else round(ms, 1) for ms in (slot.p50_ms, slot.p95_ms))
    return [slot.start_s, slot.answered, slot.failed, *percentiles, *(round(ms, 2) for ms in slot.stages_ms)]


def _changed(before: View | None, view: View) -> View:
    if before is None:
        return view
    return {} if before is view else {field: value for field, value in view.items() if before[field] != value}


def _now(now: Now) -> View:
    return {
        "now_s": round(now.now_s, 3),
        "hub": now.hub,
        "connected": now.connected,
        "in_flight": now.in_flight,
        "per_s": round(now.per_s, 2),
        "hour": now.hour,
    }
