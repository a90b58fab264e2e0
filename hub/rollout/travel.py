"""Who would get what? Looks at a fleet as it is now, and tells the wave of each node and the bytes that travel to it.

The same choices as a rollout makes when it begins. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from hub.rollout.contents import Contents
from hub.rollout.order import Order, is_target, named_in
from hub.rollout.waves import Seen, canaries, in_turn, waves


class Trip(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout would bring to one node. `wave` is None where it has the bundle already."""

    node: str
    wave: int | None
    bytes: int
    why: str = ""


def trips(order: Order, contents: Contents, seen: Mapping[str, Seen], known: Iterable[Contents]) -> list[Trip]:
    """One for each target, in the order in which they are told; `known` are the bundles whose files are known."""
    targets = {name: node for name, node in seen.items() if is_target(name, node.profile, order.to)}
    targets.update({name: Seen(is_there=False) for name in named_in(order.to) if name not in targets})
    ready = sum(node.is_ready for node in targets.values())
    ordered = in_turn(targets, order.name)
    numbers = waves(canaries(order.canary, len(ordered), max(ready, 1)), len(ordered)) if ordered else []
    of_bundle = {(each.bundle, each.version): each.blobs for each in known}
    found: list[Trip] = []
    for name, wave in zip(ordered, numbers, strict=True):
        node = targets[name]
        if node.has(order.bundle, order.version):
            found.append(Trip(node=name, wave=None, bytes=0, why="has it already"))
            continue
        has = [of_bundle.get((served.bundle, served.version), {}) for served in node.bundles]
        travels = sum(size for sha256, size in contents.blobs.items() if not any(sha256 in blobs for blobs in has))
        found.append(Trip(node=name, wave=wave, bytes=travels, why=_why(node)))
    return found


def _why(node: Seen) -> str:
    if not node.is_there:
        return "is not there: gets it when it comes"
    return "" if node.deploys else "takes no bundles: start its agent with what lets it"


def trips_document(order: Order, contents: Contents, found: list[Trip]) -> dict[str, Any]:
    """What `deploy --dry-run --json` prints."""
    return {
        "rollout": order.name,
        "bundle": order.bundle,
        "version": order.version,
        "replaces": order.replaces,
        "signed": contents.signature is not None,
        "size_bytes": contents.size_bytes,
        "waves": max((trip.wave + 1 for trip in found if trip.wave is not None), default=0),
        "travels_bytes": sum(trip.bytes for trip in found),
        "nodes": [msgspec.to_builtins(trip) for trip in found],
    }
