"""What happens to a node, and what it is to do about it: the events and effects of its core.

Events are past tense, effects are commands. Values only; what follows from what is in `edge_agent/core.py`.
"""

from __future__ import annotations

import msgspec

from edge_agent.runtime.generation import Generation
from hub import wire

Key = tuple[str, str]  # device and question id: what makes two pieces of work the same


class Refusal(msgspec.Struct, frozen=True):
    """Why a question could not be answered: a failure code and one line."""

    code: wire.Code
    message: str


Told = str | wire.Answer | Refusal  # to who asked here: a piece of text, or the outcome, which is the last


# --- events ---------------------------------------------------------------------------------------------


class WorkReceived(msgspec.Struct, frozen=True):
    """A hub sent a question."""

    work: wire.Work


class Asked(msgspec.Struct, frozen=True):
    """A question was asked here, on the device itself. `id` is nobody else's; `bundle` is served here."""

    id: str
    question: wire.Question
    bundle: str
    budget_ms: float


class Withdrawn(msgspec.Struct, frozen=True):
    """Who asked here does not want to know any more."""

    id: str


class ControlReceived(msgspec.Struct, frozen=True):
    """A hub pinged, cancelled or drained; `received_at` is when the message was read."""

    control: wire.Control
    received_at: float


class TextProduced(msgspec.Struct, frozen=True):
    """A running question has more text."""

    key: Key
    text: str


class WorkFinished(msgspec.Struct, frozen=True):
    """The worker is done with a running question."""

    key: Key
    result: Generation | Refusal


class Leaving(msgspec.Struct, frozen=True):
    """This node is about to go: what runs, and what was asked here, may end; the rest is handed back to the hubs."""


class ServedChanged(msgspec.Struct, frozen=True):
    """A bundle costs more or less than it did, or runs on something else."""

    served: wire.ServedBundle


class BundleOffered(msgspec.Struct, frozen=True):
    """A bundle, which is loaded, is offered from now on, in the place of another or beside all; it answers `parallel`
    questions at once.
    """

    served: wire.ServedBundle
    parallel: int
    instead_of: str | None = None


class BundleWithdrawn(msgspec.Struct, frozen=True):
    """A bundle is not offered any more; what is sent for it is answered all the same."""

    bundle: str


class BundleDone(msgspec.Struct, frozen=True):
    """A bundle is needed no more: it is closed once what waits for it is answered."""

    bundle: str


class TimePassed(msgspec.Struct, frozen=True):
    """The time named by `next_wake` has come."""


Event = (
    WorkReceived
    | Asked
    | Withdrawn
    | ControlReceived
    | TextProduced
    | WorkFinished
    | ServedChanged
    | BundleOffered
    | BundleWithdrawn
    | BundleDone
    | Leaving
    | TimePassed
)


# --- effects --------------------------------------------------------------------------------------------


class StartWork(msgspec.Struct, frozen=True):
    """Give this to the worker, which has room for it."""

    key: Key
    bundle: str
    question: wire.Question


class StopWork(msgspec.Struct, frozen=True):
    """A running question is not wanted any more; WorkFinished still comes."""

    key: Key


class PublishAnswer(msgspec.Struct, frozen=True):
    """To the device: JSON, or the bare text where it asked in plain text."""

    work: wire.Work
    answer: wire.Answer
    until: float  # when nobody waits for it any more
    again: bool = False  # a repeat: it was computed before


class PublishChunk(msgspec.Struct, frozen=True):
    """To the device, QoS 0."""

    work: wire.Work
    chunk: wire.Chunk


class PublishReport(msgspec.Struct, frozen=True):
    """To the hubs: Done with QoS 1, Pong with QoS 0."""

    report: wire.Report


class TellText(msgspec.Struct, frozen=True):
    """More text for who asked here."""

    id: str
    text: str


class TellOutcome(msgspec.Struct, frozen=True):
    """The end of what was asked here; nothing follows."""

    id: str
    outcome: wire.Answer | Refusal
    cancelled: bool = False  # it was withdrawn: nobody listens


class NoteRepeat(msgspec.Struct, frozen=True):
    """What came as `before` is under way and ends as `work`, which came later: `before` has no end of its own."""

    before: wire.Work
    work: wire.Work


class NoteComputed(msgspec.Struct, frozen=True):
    """An answer was computed here, whoever gets it, while so many others were, on average."""

    answer: wire.Answer
    beside: float


class NoteOverdue(msgspec.Struct, frozen=True):
    """An answer is late because this bundle has been at it for much longer than it should need, even beside others."""

    bundle: str


class CloseBundle(msgspec.Struct, frozen=True):
    """Nothing is asked of this bundle any more: the worker may close it."""

    bundle: str


class PublishState(msgspec.Struct, frozen=True):
    """What this node is has changed."""


Effect = (
    StartWork
    | StopWork
    | PublishAnswer
    | PublishChunk
    | PublishReport
    | PublishState
    | TellText
    | TellOutcome
    | NoteRepeat
    | NoteComputed
    | NoteOverdue
    | CloseBundle
)
