"""What is shown of a rollout: one row for each node, and the whole in figures. Pure.

The words for how far a node has come are those of `wire.Phase`, and these beside them: `queued` until its wave begins,
`absent` where it is not there for that, `told` until it says something, `stuck` where it says nothing any more,
`failed` where it refused the bundle or went back, `undoing` and `undone` where the rollout was stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from hub import wire
from hub.printable import printable
from hub.rollout.order import NodeProgress, Order, Progress
from hub.rollout.waves import Seen

PHASES: Final = (
    "queued", "absent", "told", "waiting", "fetching", "checking", "warming", "trial", "serving",
    "failed", "stuck", "undoing", "undone",
)  # fmt: skip
MOST_TROUBLES: Final = 20  # nodes that are named, with why
_TROUBLE: Final = ("failed", "stuck", "undoing", "undone")

_NOBODY: Final = Seen(is_there=False)

View = dict[str, Any]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One node. What the node itself tells is as of its last state, where that is known."""

    node: str
    wave: int
    phase: str
    why: str = ""
    progress: float | None = None
    fetched_bytes: int = 0
    answered: int | None = None
    failed: int | None = None
    slower: float | None = None


def rows_of(order: Order, progress: Progress, seen: Mapping[str, Seen] | None) -> list[Row]:
    """Every node by wave and name; without `seen` as it was when it was written last."""
    ordered = sorted(progress.nodes.items(), key=lambda both: (both[1].wave, both[0]))
    return [_row(order, name, one, None if seen is None else seen.get(name, _NOBODY)) for name, one in ordered]


def _row(order: Order, name: str, one: NodeProgress, node: Seen | None) -> Row:
    said = None if node is None else node.deployment
    if said is None or said.rollout != order.name or said.epoch != (one.undo_epoch or one.epoch):
        said = None
    phase: str = one.stage
    if one.stage == "waiting":
        phase = "absent" if node is not None and not node.is_ready else "queued"
    elif one.stage == "told":
        phase = (one.phase if said is None else said.phase) or "told"
    if said is None:
        return Row(node=name, wave=one.wave, phase=phase, why=one.why, fetched_bytes=one.fetched_bytes)
    return Row(
        node=name,
        wave=one.wave,
        phase=phase,
        why=printable(said.why) or one.why,
        progress=None if phase in ("serving", *_TROUBLE) else round(said.progress, 2),
        fetched_bytes=max(said.fetched_bytes, one.fetched_bytes),
        answered=said.answered,
        failed=said.failed,
        slower=said.slower,
    )


def summary(order: Order, progress: Progress, rows: Iterable[Row]) -> View:
    """The whole in figures, and the first nodes that did not take it, with why."""
    listed = list(rows)
    phases = Counter(row.phase for row in listed)
    trouble = [row for row in listed if row.phase in _TROUBLE]
    begun = [row.wave for row in listed if row.phase not in ("queued", "absent")]
    waves = max((row.wave + 1 for row in listed), default=0)
    return {
        "name": order.name,
        "bundle": order.bundle,
        "version": order.version,
        "replaces": order.replaces,
        "at_s": order.at_s,
        "status": progress.status,
        "why": progress.why,
        "nodes": len(listed),
        "wave": max(begun, default=-1) + 1,
        "waves": waves,
        "phases": {phase: phases[phase] for phase in PHASES if phases[phase]},
        "fetched_bytes": sum(row.fetched_bytes for row in listed),
        "size_bytes": order.size_bytes,
        "trouble": [{"node": row.node, "phase": row.phase, "why": row.why} for row in trouble[:MOST_TROUBLES]],
        "more_trouble": max(len(trouble) - MOST_TROUBLES, 0),
    }


def left_out(name: str, why: str) -> View:
    """Of a rollout whose files cannot be read: its name, and why."""
    return {
        "name": name, "bundle": "", "version": 0, "replaces": "", "at_s": 0.0, "status": "damaged", "why": why,
        "nodes": 0, "wave": 0, "waves": 0, "phases": {}, "fetched_bytes": 0, "size_bytes": 0,
        "trouble": [], "more_trouble": 0,
    }  # fmt: skip


def document(order: Order, progress: Progress, seen: Mapping[str, Seen] | None) -> View:
    """What `rollout status --json` prints of one rollout."""
    rows = rows_of(order, progress, seen)
    whole = summary(order, progress, rows)
    whole["nodes"] = [msgspec.to_builtins(row) for row in rows]
    return whole


def seen_in(states: Mapping[str, wire.NodeState]) -> dict[str, Seen]:
    """The nodes as their retained states tell of them."""
    return {
        name: Seen(
            is_there=state.status != "offline",
            deploys=state.deploys,
            profile=state.profile,
            bundles=state.bundles,
            deployment=state.deployment,
        )
        for name, state in states.items()
    }


def in_words(one: View) -> str:
    """A document in one line."""
    phases = ", ".join(f"{count} {phase}" for phase, count in one["phases"].items())
    wave = (
        f", wave {one['wave']} of {one['waves']}: {phases}"
        if phases
        else ", and waits for a hub that carries it out, or for a node"
    )
    why = f" ({one['why']})" if one["why"] else ""
    return f"rollout {one['name']} is {one['status']}{why}{wave}"


def size(count: int) -> str:
    """Bytes, short.

    >>> size(999), size(12_345), size(1_500_000_000)
    ('999 B', '12.3 kB', '1.5 GB')
    """
    figure = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if figure < 1000:
            return f"{figure:.0f} {unit}" if unit == "B" else f"{figure:.1f} {unit}"
        figure /= 1000
    return f"{figure:.1f} TB"
