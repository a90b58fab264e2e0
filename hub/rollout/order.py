"""What is ordered when a bundle is deployed, and how far that has come: the files of a rollout, as values.

`Order` is written once, by `edge-hub deploy`; `Progress` again and again, by the hub that carries it out. Together with
what the nodes say they are all that a hub knows of a rollout after it was started again.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hub import wire
from hub.errors import RolloutError
from hub.rollout.contents import BundleId, Bytes, Version

Status = Literal["waiting", "active", "done", "stopped", "cancelled"]
Stage = Literal["waiting", "told", "stuck", "serving", "failed", "undoing", "undone"]

OPEN: Final = ("waiting", "active")  # beside these no second rollout of the same model is begun
PROFILE: Final = "profile:"
ALL: Final = "all"


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `rollouts/<name>.json`.

    `to` names nodes, `profile:P` or `all`. A node that says nothing for `silent_s` counts as failed; `max_failure` is
    of nodes here, and of a node's questions in `trial`.
    """

    name: wire.Name
    at_s: float  # since the epoch, when it was ordered: of two the later one counts
    bundle: BundleId
    version: Version
    replaces: wire.Word
    manifest: wire.Sha256
    signature: wire.Sha256 | None
    size_bytes: Bytes
    to: Annotated[tuple[wire.Word, ...], Meta(min_length=1, max_length=10_000)]
    canary: Annotated[float, Meta(gt=0, le=1)] = 0.1
    max_failure: wire.Share = 0.02
    silent_s: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 1800.0
    trial: wire.Trial = wire.Trial()

    def desired(self, epoch: int, sources: tuple[str, ...], *, undo: bool = False) -> wire.Desired:
        """What a node is told."""
        return wire.Desired(
            epoch=epoch,
            rollout=self.name,
            bundle=self.bundle,
            version=self.version,
            replaces=self.replaces,
            manifest=self.manifest,
            signature=self.signature,
            size_bytes=self.size_bytes,
            sources=sources,
            trial=self.trial,
            undo=undo,
        )


class NodeProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How far one node has come.

    `epoch` is that of the Desired by which it was told, `undo_epoch` that by which it was told to go back; 0 where it
    was not. `phase` is what it said last, and `why`.
    """

    wave: int  # 0 are the canaries
    stage: Stage = "waiting"
    epoch: wire.Count = 0
    undo_epoch: wire.Count = 0
    phase: wire.Phase | None = None
    why: str = ""
    fetched_bytes: wire.Count = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `progress/<name>.json`: before anybody was chosen there are no nodes."""

    status: Status = "waiting"
    why: str = ""
    nodes: dict[str, NodeProgress] = {}


def check_target(text: str) -> str:
    """`text`, if it says who is to get a bundle. Raises RolloutError.

    >>> [check_target(text) for text in ("orin-1", "profile:jetson-orin", "all")]
    ['orin-1', 'profile:jetson-orin', 'all']
    """
    if not wire.is_name(text.removeprefix(PROFILE)):
        raise RolloutError(f"{text!r} names nobody: give the name of a node, profile:P, or all")
    return text


def is_target(name: str, profile: str, to: tuple[str, ...]) -> bool:
    """Whether a node of that name and profile is among those that `to` names."""
    return any(each in (ALL, name) or (profile != "" and each == PROFILE + profile) for each in to)


def named_in(to: tuple[str, ...]) -> list[str]:
    """The nodes that are targets whether anybody has seen them or not.

    >>> named_in(("orin-1", "profile:jetson-orin"))
    ['orin-1']
    """
    return [each for each in to if each != ALL and not each.startswith(PROFILE)]
