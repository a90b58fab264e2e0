"""Takes a plan from event to event, with bundles that are nothing but their facts."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_agent.deploy import events
from edge_agent.deploy.events import Effect, Event, Facts, Fixed
from edge_agent.deploy.plan import step
from edge_agent.deploy.record import Record, Slot
from edge_agent.deploy.state import State, deployment
from hub import wire

FIXED = Fixed("tiny", "b1", 1, "1" * 64)


def desired(version: int, epoch: int, **fields: Any) -> wire.Desired:
    said = wire.Desired(
        epoch=epoch, rollout=f"r{version}", bundle=f"b{version}", version=version, replaces="tiny",
        manifest=f"{version:x}" * 64, sources=("https://hub",), trial=wire.Trial(seconds=60.0),
    )  # fmt: skip
    return msgspec.structs.replace(said, **fields)


def facts(version: int, **fields: Any) -> Facts:
    return msgspec.structs.replace(Facts(f"b{version}", version, "tiny"), **fields)


class Plan:
    """A state that is taken from event to event, and the effects of the last one."""

    def __init__(self, record: Record | None = None, *, fixed: tuple[Fixed, ...] = (FIXED,)) -> None:
        self.state = State(record=Record() if record is None else record, fixed=fixed)
        self.now = 0.0
        self.take(events.Started())
        self.take(events.Resumed())

    def take(self, event: Event, after_s: float = 0.0) -> tuple[Effect, ...]:
        self.now += after_s
        self.state, effects = step(self.state, event, self.now)
        return effects

    def to_trial(self, version: int, epoch: int, **fields: Any) -> None:
        self.take(events.DesiredReceived(desired(version, epoch, **fields)))
        self.take(events.Described(epoch, facts(version)))
        self.take(events.Fetched(epoch))
        self.take(events.Checked(epoch, facts(version)))
        self.take(events.Warmed(epoch))
        assert self.phase == "trial", self.why

    def to_serving(self, version: int, epoch: int) -> None:
        self.to_trial(version, epoch)
        self.answered(version)
        self.take(events.TimePassed(), 60.0)
        self.take(events.Compared(epoch))
        self.take(events.TimePassed())
        assert self.phase == "serving"

    def answered(self, version: int, count: int = 8) -> None:
        """As many questions as tell of its delay, as fast as predicted."""
        for _ in range(count):
            self.take(events.QuestionEnded(f"b{version}", False, 1.0, 1.0))

    def restart(self, *, crash: bool = True) -> None:
        if not crash:
            self.take(events.Closed())
        fixed = self.state.fixed
        self.__init__(self.state.record, fixed=fixed)  # type: ignore[misc]

    @property
    def phase(self) -> str:
        return self.state.record.phase

    @property
    def why(self) -> str:
        told = deployment(self.state)
        assert told is not None
        return told.why

    @property
    def slot(self) -> Slot:
        return self.state.record.slots.get("tiny", Slot())
