"""What happens to a hub, and what it wants done: the vocabulary of `hub/core.py`.

Events are past tense, effects are commands; both are frozen values. The live service and the simulator speak
them; nothing here knows of sockets or clocks. `receipt` and `ticket` are numbers that the shell and the core
hand each other so that one can name "that ask" or "that publish" to the other.
"""

from __future__ import annotations

from typing import Final

import msgspec

from hub import wire
from hub.decision import Decision
from hub.trace_context import TraceContext

# --- events ---------------------------------------------------------------------------------------------


class MessageReceived(msgspec.Struct, frozen=True, kw_only=True):
    """A message arrived on one of our topics. `receipt` is set on asks, which must be acknowledged.

    `again` is set where a hub, be it another or an earlier life of this one, had it before and did not acknowledge it.
    """

    topic: str
    payload: bytes
    retained: bool = False
    receipt: int | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None
    trace: TraceContext | None = None
    again: bool = False


class PublishAccepted(msgspec.Struct, frozen=True):
    """The broker acknowledged the QoS 1 publish that an effect named by `ticket`."""

    ticket: int


class LinkOpened(msgspec.Struct, frozen=True):
    """Connected and subscribed: retained state is about to come."""


class LinkClosed(msgspec.Struct, frozen=True):
    """The broker is gone; publishes without PublishAccepted may be lost.

    Receipts are still acknowledged: asks may come over a connection that stands. The shell ignores void ones, and
    uses no receipt twice.
    """


class TimePassed(msgspec.Struct, frozen=True):
    """The time named by `Core.next_wake` has come."""


class AsksTakenOver(msgspec.Struct, frozen=True):
    """All that waited for a hub that is gone has come here: there is nothing left of it at the broker but its state."""

    hub: str


Event = MessageReceived | PublishAccepted | LinkOpened | LinkClosed | TimePassed | AsksTakenOver


# --- effects --------------------------------------------------------------------------------------------


class PublishWork(msgspec.Struct, frozen=True, kw_only=True):
    """QoS 1 to `node/{node}/work`, expiring at the broker after the budget.

    `waited_ms` is the time since the question came, None where it has ended and its answer is only to be said again;
    `trace` came with it.
    """

    node: str
    work: wire.Work
    ticket: int
    waited_ms: float | None = None
    trace: TraceContext | None = None


class PublishFailure(msgspec.Struct, frozen=True, kw_only=True):
    """QoS 1 to the asker: JSON, or plain text with the user property `error` where it asked in plain text."""

    reply_to: str
    failure: wire.Failure
    correlation: bytes | None
    plain: bool
    ticket: int


class PublishControl(msgspec.Struct, frozen=True, kw_only=True):
    """To `node/{node}/control`: a Ping with QoS 0, all else with QoS 1 behind the Work that was published before."""

    node: str
    control: wire.Control


class AcknowledgeAsk(msgspec.Struct, frozen=True):
    """This ask needs no redelivery any more; the shell acknowledges in order of receipt."""

    receipt: int


class LogDecision(msgspec.Struct, frozen=True):
    """One log line: every candidate's terms, and why the losers lost."""

    decision: Decision


STAGES: Final = ("network", "queue", "prefill", "decode", "overhead")  # of a record: they add up to its total


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One row per question. All durations in milliseconds on the hub's own clock or as the node measured them.

    A question that a node answered for its own device without a hub is *local*: it has no attempts, and its total is
    the node's. `total_ms` runs from receipt at the hub to Done at the hub. `network_ms` is what is left of it after
    queue and compute at the node of the last attempt: travel, plus attempts that were lost; `overhead_ms` is compute
    that is neither prefill nor decode. `decisions` has one entry per attempt, and one for a choice that found no node;
    the `predicted_*` are what the first one promised. `second` says why a second node was asked beside the first
    (`hedge`: the deadline was near, `silence`: nothing was heard), and `second_won` that it answered first.

    `node_life` (of the node's process) and `node_number` say which of its answers this is. `partial` is a row that was
    pieced together from a node's report alone, because the hub that had the question is gone: its total is a lower
    bound. `again` says that a hub may have ended the question before; it is for whoever keeps the rows, and not kept.
    """

    device: str
    id: str
    hub: str
    outcome: str  # "answered" or a failure code
    node: str | None
    bundle: str | None
    model: str | None
    task: str
    attempts: int
    duplicates: int
    question_bytes: int
    answer_bytes: int = 0
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    predicted_ms: float | None
    predicted_network_ms: float | None = None
    predicted_queue_ms: float | None = None
    predicted_prefill_ms: float | None = None  # with what is there for every question: overhead and a batch's start
    predicted_decode_ms: float | None = None
    total_ms: float
    network_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    overhead_ms: float = 0.0
    decisions: tuple[Decision, ...]
    local: bool = False
    second: str = ""
    second_won: bool = False
    node_life: int | None = None
    node_number: int | None = None
    partial: bool = False
    again: bool = False


class Row(Record, frozen=True, kw_only=True):
    """A record as it is kept: the shell adds the wall clock's time of its end, for display and windows.

    `asker_ms` is the whole delay by the asker's own clock, and `asker_first_ms` until it saw the first text, where the
    asker has told them.
    """

    wall_time_s: float
    asker_ms: float | None = None
    asker_first_ms: float | None = None


class StoreRecord(msgspec.Struct, frozen=True):
    """One question has ended, `ago_ms` before now; keep what is known of it."""

    record: Record
    ago_ms: float = 0.0
    trace: TraceContext | None = None


HANDED_OVER: Final = "handed_over"  # an outcome of a trace here, none of a question


class EndTrace(msgspec.Struct, frozen=True, kw_only=True):
    """A question is over here without a record: one exists already, or another hub goes on with it (`handed_over`)."""

    device: str
    id: str
    outcome: str


class LateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A node's answer that has no row, because the question had its outcome already."""

    node: str
    life: int
    number: int


class AnswersTold(msgspec.Struct, frozen=True, kw_only=True):
    """A node has said that this was the number of its last answer, and not all up to it were heard here."""

    node: str
    life: int
    number: int


class AskerHeard(msgspec.Struct, frozen=True, kw_only=True):
    """A device has told how long questions took by its own clock."""

    device: str
    earlier: tuple[wire.Earlier, ...]


Note = LateAnswer | AnswersTold | AskerHeard


class StoreNote(msgspec.Struct, frozen=True):
    """Keep what is known beside the questions' rows."""

    note: Note


class HearWork(msgspec.Struct, frozen=True):
    """Receive what other hubs send to nodes from now on; or no more, where there are none."""

    on: bool


class TakeOverAsks(msgspec.Struct, frozen=True):
    """A hub is gone: let the asks that wait for it at the broker come here. May be said again and again."""

    hub: str


class ForgetHub(msgspec.Struct, frozen=True):
    """Clear the retained state of a hub of which nothing is left."""

    hub: str


Effect = (
    PublishWork
    | PublishFailure
    | PublishControl
    | AcknowledgeAsk
    | LogDecision
    | StoreRecord
    | EndTrace
    | StoreNote
    | HearWork
    | TakeOverAsks
    | ForgetHub
)
