"""Nodes that follow a rollout, without any hub: what they are told takes its course, by steps of a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hub import wire
from hub.rollout.order import Order, Progress
from hub.rollout.plan import Effect, Persist, PublishDesired, Rollout
from hub.rollout.waves import Seen

OLD, NEW, MODEL = "smol-orin-0", "smol-orin-1", "smol"
GOOD: tuple[wire.Phase, ...] = ("fetching", "checking", "warming", "trial", "serving")
BAD: tuple[wire.Phase, ...] = ("fetching", "checking", "warming", "trial", "undone")
REFUSES: tuple[wire.Phase, ...] = ("fetching", "refused")


def order(**changes: Any) -> Order:
    """A rollout of version 2 to all."""
    given: dict[str, Any] = {
        "name": "r1", "at_s": 1.0, "bundle": NEW, "version": 2, "replaces": MODEL, "manifest": "0" * 64,
        "signature": "1" * 64, "size_bytes": 1000, "to": ("all",), "trial": wire.Trial(seconds=5.0),
    }  # fmt: skip
    return Order(**{**given, **changes})


def served(bundle: str = OLD, version: int = 1, model: str = MODEL) -> wire.ServedBundle:
    """A bundle as a node tells of it."""
    return wire.ServedBundle(
        bundle=bundle, model=model, task="text-generation", context=512, version=version,
        fixed_ms=1.0, prefill_ms_per_token=1.0, decode_ms_per_token=1.0,
    )  # fmt: skip


class FakeNode:
    """A node that goes through `course` when it is told, one phase with each `tick`, and back when it is told that."""

    def __init__(self, course: tuple[wire.Phase, ...] = GOOD, profile: str = "orin", *, there: bool = True) -> None:
        self.course = course
        self.profile = profile
        self.there = there
        self.why = "it is worse"
        self.quiet = False
        self.heard: wire.Desired | None = None
        self.retained: wire.Desired | None = None
        self.deployment: wire.Deployment | None = None
        self.bundles = (served(),)
        self.left: list[wire.Phase] = []

    def tick(self) -> None:
        """A second passes for it."""
        if not self.there:
            return
        if self.retained is not None and (self.heard is None or self.retained.epoch > self.heard.epoch):
            self.heard = self.retained
            self.left = ["undone"] if self.heard.undo else list(self.course)
        if self.heard is not None and self.left:
            phase = self.left.pop(0)
            if phase in ("trial", "serving"):
                self.bundles = (served(self.heard.bundle, self.heard.version),)
            elif phase == "undone":
                self.bundles = (served(),)
            self.deployment = wire.Deployment(
                epoch=self.heard.epoch, rollout=self.heard.rollout, bundle=self.heard.bundle,
                version=self.heard.version, phase=phase, why=self.why if phase in ("undone", "refused") else "",
                quiet=self.quiet,
            )  # fmt: skip

    @property
    def seen(self) -> Seen:
        """As the hub sees it."""
        return Seen(
            is_there=self.there,
            profile=self.profile,
            bundles=self.bundles,
            deployment=self.deployment,
            epoch=0 if self.retained is None else self.retained.epoch,
        )


class Scene:
    """A rollout among nodes; `disk` is what would be found after the hub was killed."""

    def __init__(self, nodes: Mapping[str, FakeNode], **changes: Any) -> None:
        self.nodes = dict(nodes)
        self.order = order(**changes)
        self.disk = Progress()
        self.now = 0.0
        self.told: list[PublishDesired] = []
        self.rollout = Rollout(self.order, self.disk)

    def restart(self) -> None:
        """The hub is killed, and started again."""
        self.rollout = Rollout(self.order, msgspec.json.decode(msgspec.json.encode(self.disk), type=Progress))

    def step(self, *, dies_after: int | None = None) -> list[Effect]:
        """The hub looks, and does; of what it does it dies after so many effects. Then a second passes."""
        effects = self.rollout.step({name: node.seen for name, node in self.nodes.items()}, self.now)
        for effect in effects[:dies_after]:
            if isinstance(effect, Persist):
                self.disk = effect.progress
            elif isinstance(effect, PublishDesired):
                self.told.append(effect)
                if effect.node in self.nodes:
                    self.nodes[effect.node].retained = effect.desired
        if dies_after is not None:
            self.restart()
        self.now += 1.0
        for node in self.nodes.values():
            node.tick()
        return effects

    def run(self, seconds: int = 100) -> Scene:
        """Until so many seconds have passed."""
        for _ in range(seconds):
            self.step()
        return self

    def stages(self) -> dict[str, str]:
        """How far each node has come."""
        return {name: one.stage for name, one in self.rollout.progress.nodes.items()}

    @property
    def status(self) -> str:
        """Of the whole."""
        return self.rollout.progress.status
