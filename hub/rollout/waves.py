"""In which order do nodes get a bundle, and how many at once? Pure.

Canaries first, then waves: each is as large as all before it together, so that what has proven itself doubles. In the
order every kind of node (its profile, and the models that it serves) takes its turn, so a few canaries stand for as
many kinds as they can. Within a kind, chance decides whose turn it is, but always the same for the same rollout: not
one node is the first of every rollout, and two who look see the same.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping

import msgspec

from hub import wire


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A node as a rollout sees it.

    `is_there` says that it can be told something now, `busy` that another rollout is under way there, and `epoch` is
    the highest that any Desired of it has had.
    """

    is_there: bool
    deploys: bool = True
    busy: bool = False
    profile: str = ""
    bundles: tuple[wire.ServedBundle, ...] = ()
    deployment: wire.Deployment | None = None
    epoch: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether it can be given a bundle now."""
        return self.is_there and self.deploys and not self.busy

    def has(self, bundle: str, version: int) -> bool:
        """Whether it serves this very bundle."""
        return any(served.bundle == bundle and served.version == version for served in self.bundles)

    def serves(self, model: str) -> bool:
        """Whether it serves this model."""
        return any(served.model == model for served in self.bundles)


def in_turn(targets: Mapping[str, Seen], seed: str) -> list[str]:
    """The targets in the order in which they get it: those that are ready first, each kind in turn."""
    kinds: dict[tuple[object, ...], list[str]] = {}
    for name in sorted(targets, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()):
        seen = targets[name]
        models = tuple(sorted({served.model for served in seen.bundles}))
        kinds.setdefault((not seen.is_ready, seen.profile, models), []).append(name)
    larger_first = sorted(kinds.items(), key=lambda kind: (kind[0][0], -len(kind[1]), kind[0]))
    ordered: list[str] = []
    for ready in (False, True):
        columns = [names for kind, names in larger_first if kind[0] is ready]
        ordered += [name for row in itertools.zip_longest(*columns) for name in row if name is not None]
    return ordered


def canaries(share: float, targets: int, ready: int) -> int:
    """How many are the first: the share of all, at least one, and no more than are ready.

    >>> canaries(0.1, 5, 5), canaries(0.1, 41, 41), canaries(0.5, 10, 3)
    (1, 5, 3)
    """
    return min(max(math.ceil(share * targets - 1e-9), 1), ready)


def waves(first: int, targets: int) -> list[int]:
    """The wave of each target, in their order.

    >>> waves(1, 6), waves(2, 2)
    ([0, 1, 2, 2, 3, 3], [0, 0])
    """
    found: list[int] = []
    size = first
    for wave in itertools.count():
        found += [wave] * min(size, targets - len(found))
        if len(found) == targets:
            return found
        size = len(found)
    raise AssertionError("counting ends never")


def at_once(seen: Iterable[Seen], model: str) -> int:
    """How many of the nodes that serve `model` may be under way: half of those that are there, at least one."""
    serving = sum(node.is_there and node.serves(model) for node in seen)
    return max(serving // 2, 1)
