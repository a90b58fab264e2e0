"""What crosses MQTT: every topic and every message, built and parsed here and nowhere else.

Knows nothing of sockets, clocks or who is sending. Messages are frozen; a decoded one is valid and is
trusted from there on. Unknown fields are ignored, a missing or wrong one raises `WireError`.
Durations cross the wire in milliseconds, timestamps never do.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from hub.errors import WireError

PREFIX: Final = "edge/v1"
_MOST_TOPIC_CHARS: Final = 128  # of ours: prefix, words, and a name of 64
DEFAULT_DEADLINE_MS: Final = 30_000.0
MAX_QUESTION_BYTES: Final = 256 * 1024
MAX_MESSAGE_BYTES: Final = 1024 * 1024  # anything larger is no message of ours
MAX_EARLIER: Final = 16  # outcomes of earlier questions that a question tells
MAX_WHY_CHARS: Final = 400  # of the reason why a better runtime is not used
MOST_SKIPPED_EPOCHS: Final = 1_000_000  # of a Desired: a node ignores more, lest one message end all its rollouts
ASK_GROUP: Final = "hubs"  # those that share the asks
ERROR_PROPERTY: Final = "error"  # MQTT user property that marks a plain-text failure with its code

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAME_PATTERN: Final = re.compile(f"{_NAME}\\Z")

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=f"^{_NAME}\\Z", max_length=64)]
_LINE: Final = r"^[^\x00-\x1f\x7f]*\Z"  # in a log
QuestionId = Annotated[str, Meta(min_length=1, max_length=128, pattern=_LINE)]
Word = Annotated[str, Meta(min_length=1, max_length=256, pattern=_LINE)]  # what a bundle, a model or a task is called
MAX_REPLY_CHARS: Final = 65_535 // 4  # MQTT counts a topic's bytes, and a character has up to four
StopText = Annotated[str, Meta(min_length=1, max_length=256)]  # an answer ends before it
Milliseconds = Annotated[float, Meta(ge=0, le=1e12)]  # finite: NaN and infinity fail both bounds
MAX_COUNT: Final = 2**53  # every JSON parser has whole numbers up to it
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]

TopicKind = Literal["ask", "answer", "node_state", "work", "control", "desired", "report", "hub_state"]
Phase = Literal["waiting", "fetching", "checking", "warming", "trial", "serving", "refused", "undone"]
Code = Literal["invalid", "too_large", "unsupported", "no_node", "overloaded", "deadline", "internal"]
CODES: Final[tuple[str, ...]] = (
    "invalid",
    "too_large",
    "unsupported",
    "no_node",
    "overloaded",
    "deadline",
    "internal",
)

_SHAPES: Final[dict[TopicKind, tuple[str, str]]] = {
    "ask": ("ask/", ""),
    "answer": ("answer/", ""),
    "node_state": ("node/", "/state"),
    "work": ("node/", "/work"),
    "control": ("node/", "/control"),
    "desired": ("node/", "/desired"),
    "report": ("node/", "/report"),
    "hub_state": ("hub/", "/state"),
}


def is_name(text: str) -> bool:
    """Whether `text` may name a device, node or hub: 1 to 64 of letters, digits, `.`, `_`, `-`."""
    return _NAME_PATTERN.match(text) is not None


def page_device(hub: str) -> str:
    """The device as which the live page of `hub` asks."""
    return f"page-{hub}"[:64]


class Topic(msgspec.Struct, frozen=True):
    """One topic of ours: what it carries, and whose it is.

    >>> str(Topic("work", "orin-1"))
    'edge/v1/node/orin-1/work'
    >>> Topic.parse("edge/v1/ask/kitchen")
    Topic(kind='ask', name='kitchen')
    >>> Topic.parse("edge/v1/ask/kitchen/door") is None
    True
    """

    kind: TopicKind
    name: str

    def __str__(self) -> str:
        before, after = _SHAPES[self.kind]
        return f"{PREFIX}/{before}{self.name}{after}"

    @classmethod
    def parse(cls, topic: str) -> Topic | None:
        """The topic behind `topic`, or None where it is none of ours."""
        return _parsed(topic) if len(topic) <= _MOST_TOPIC_CHARS else None

    @staticmethod
    def all_of(kind: TopicKind) -> str:
        """The MQTT filter for every topic of one kind.

        >>> Topic.all_of("report")
        'edge/v1/node/+/report'
        """
        before, after = _SHAPES[kind]
        return f"{PREFIX}/{before}+{after}"

    @staticmethod
    def shared(kind: TopicKind, group: str) -> str:
        """The MQTT filter by which each message of one kind comes to one member of `group`.

        >>> Topic.shared("ask", "hubs")
        '$share/hubs/edge/v1/ask/+'
        """
        return f"$share/{group}/{Topic.all_of(kind)}"


@functools.lru_cache(maxsize=16_384)  # the same nodes and devices speak again and again
def _parsed(topic: str) -> Topic | None:
    if not topic.startswith(PREFIX + "/"):
        return None
    rest = topic[len(PREFIX) + 1 :]
    for kind, (before, after) in _SHAPES.items():
        if rest.startswith(before) and rest.endswith(after):
            name = rest[len(before) : len(rest) - len(after)]
            if is_name(name):
                return Topic(kind, name)
    return None


def reply_topic(device: str, asked_for: str | None) -> str:
    """Where the answer for `device` goes: its Response Topic if that lies under its own answer topic.

    >>> reply_topic("kitchen", "edge/v1/answer/kitchen/7")
    'edge/v1/answer/kitchen/7'
    >>> reply_topic("kitchen", "edge/v1/node/orin-1/work")
    'edge/v1/answer/kitchen'
    """
    own = str(Topic("answer", device))
    if asked_for is None or not (asked_for == own or asked_for.startswith(own + "/")):
        return own
    return own if any(char in asked_for for char in "+#\0") else asked_for


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of everything that crosses the wire."""


# --- from a device, and back to it ----------------------------------------------------------------------


class ChatMessage(Message, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Earlier(Message, frozen=True):
    """How long an earlier question of this device took by its own clock: to the answer, and to the first text of it."""

    id: QuestionId
    total_ms: Milliseconds
    first_ms: Milliseconds | None = None


class Question(Message, frozen=True):
    """What a device asks. Exactly one of `question`, `messages`, `text` is set; `context` is the text in which a
    question-answering model finds its answer, `stop` are texts before which an answer ends. `earlier` is for the
    records, and no part of what is asked.
    """

    id: QuestionId | None = None
    question: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    text: str | None = None
    task: str | None = None
    model: str | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    deadline_ms: Annotated[float, Meta(gt=0, le=86_400_000)] | None = None
    stream: bool = False
    session: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[tuple[StopText, ...], Meta(max_length=8)] | None = None
    context: str | None = None
    earlier: Annotated[tuple[Earlier, ...], Meta(max_length=MAX_EARLIER)] = ()

    def __post_init__(self) -> None:
        given = [field for field in ("question", "messages", "text") if getattr(self, field) is not None]
        if len(given) != 1:
            said = ", ".join(given) or "none"
            raise ValueError(f"exactly one of question, messages, text is needed, got {said}")
        if self.messages is not None and not self.messages:
            raise ValueError("messages is empty: send at least one")
        if not any(turn.strip() for turn in self.turns()):
            raise ValueError(f"{given[0]} is empty")

    def turns(self) -> tuple[str, ...]:
        """The texts of the question, in order."""
        if self.messages is not None:
            return tuple(message.content for message in self.messages)
        return (self.question if self.question is not None else self.text or "",)

    @property
    def size_chars(self) -> int:
        """Characters of all turns: what a hub without a tokenizer can know of the prompt's length."""
        return sum(len(turn) for turn in self.turns()) + len(self.context or "")


class Tokens(Message, frozen=True):
    """Token counts; `cached` of the `prompt` tokens were not computed again."""

    prompt: Count = 0
    cached: Count = 0
    completion: Count = 0


class Timing(Message, frozen=True):
    """Where the node's milliseconds went; `compute` is `prefill` plus `decode` plus what lies between."""

    queue: Milliseconds = 0.0
    prefill: Milliseconds = 0.0
    decode: Milliseconds = 0.0
    compute: Milliseconds = 0.0


class Span(Message, frozen=True):
    """Characters `start` to `end` of the text that was sent, what they are, and how likely: 0 to 1."""

    label: str
    start: Count
    end: Count
    text: str
    score: float


class Route(Message, frozen=True):
    """Where a device's own agent had its question answered, and the predicted milliseconds that decided it.

    `here_ms` is None where this node does not serve what was asked for, `fleet_ms` where the fleet was not known.
    """

    where: Literal["here", "fleet"]
    why: str
    margin_ms: Milliseconds
    here_ms: Milliseconds | None = None
    fleet_ms: Milliseconds | None = None


class Answer(Message, frozen=True):
    """The good outcome of a question. One of `text`, `labels`, `spans`, `embedding` is set; an answer found in a
    context has its text and its span. `route` is set where the device's own agent was asked.
    """

    id: str
    node: str
    bundle: str
    finish: Literal["stop", "length"]
    attempt: Count
    text: str | None = None
    labels: dict[str, float] | None = None
    spans: tuple[Span, ...] | None = None
    embedding: tuple[float, ...] | None = None
    tokens: Tokens = Tokens()
    timing_ms: Timing = Timing()
    route: Route | None = None


def plain_text(answer: Answer) -> str:
    """An answer for who asked in plain text: its text, or what it has instead, as JSON."""
    if answer.text is not None:
        return answer.text
    return msgspec.json.encode(answer.labels or answer.spans or answer.embedding or ()).decode()


class Chunk(Message, frozen=True):
    """A piece of an answer under way; the Answer holds the whole text."""

    id: str
    attempt: Count
    node: str
    seq: Count
    text: str


class Problem(Message, frozen=True):
    """Why a question failed."""

    code: Code
    message: str
    retry_after_ms: Milliseconds | None = None


class Failure(Message, frozen=True):
    """The bad outcome of a question."""

    id: str
    error: Problem


# --- from a node ----------------------------------------------------------------------------------------


class Backlog(Message, frozen=True):
    """Work a node has not finished: how many questions, and its own guess of the milliseconds left."""

    questions: Count = 0
    ms: Milliseconds = 0.0


class ServedBundle(Message, frozen=True):
    """One bundle that a node serves, and what an answer costs there (seeds; the hub learns better).

    `runtime` is what it runs on, `why` on nothing better, `progress` (0 to 1) how far a better one is built.
    """

    bundle: str
    model: str
    task: str
    context: Count
    fixed_ms: Milliseconds
    prefill_ms_per_token: Milliseconds
    decode_ms_per_token: Milliseconds
    runtime: str = "cpu"
    version: Count = 0
    why: Annotated[str, Meta(max_length=MAX_WHY_CHARS)] = ""
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None


class Machine(Message, frozen=True):
    """How a node's machine is, and how its latest answers went. Shares are 0 to 1; None is what it does not tell.

    `prompt_cached` is the share of prompt tokens that were known, `throttled` that the machine says it is slowed down.
    """

    tokens_per_s: float | None = None
    first_token_ms: float | None = None
    prompt_cached: float | None = None
    cpu: float | None = None
    memory_available_bytes: int | None = None
    resident_bytes: int | None = None
    temperature_c: float | None = None
    gpu: float | None = None
    power_w: float | None = None
    power_mode: str | None = None
    throttled: bool | None = None


class Deployment(Message, frozen=True):
    """How far a node has come with the Desired of this `epoch`.

    `waiting` for quiet hours to end (`quiet`) or for the network, `fetching` files, `checking` them, `warming` the new
    bundle beside the old, on `trial` with real questions, `serving` it for good; or it was `refused` before anybody was
    answered with it, or the node went back (`undone`), and `why`. `progress` is that of the phase, `fetched_bytes` came
    over the network, `answered` and `failed` are questions of the trial, `slower` by what share answers take longer
    than predicted.
    """

    epoch: Count
    rollout: Name
    bundle: str
    version: Count
    phase: Phase
    progress: Share = 0.0
    why: Annotated[str, Meta(max_length=MAX_WHY_CHARS)] = ""
    fetched_bytes: Count = 0
    answered: Count = 0
    failed: Count = 0
    slower: float | None = None
    quiet: bool = False


class NodeState(Message, frozen=True):
    """Retained: what a node is and has. As a will it says `offline` with the epoch it belongs to.

    `deployment` is None on a node that was never given a bundle; `deploys` says whether it takes any. `profile` is the
    device profile of what it serves.
    """

    epoch: Count
    status: Literal["ready", "draining", "offline"]
    bundles: tuple[ServedBundle, ...] = ()
    backlog: Backlog = Backlog()
    parallel: Annotated[int, Meta(ge=1, le=4096)] = 1
    machine: Machine | None = None
    deployment: Deployment | None = None
    deploys: bool = False
    profile: str = ""


class Pong(Message, frozen=True, tag_field="type", tag="pong"):
    """Answer to a Ping; `hold_ms` is how long the node held it, to be subtracted from the round trip.

    `answers` is the number of the node's last answer in this `life` of its process.
    """

    hub: str
    seq: Count
    hold_ms: Milliseconds
    backlog: Backlog = Backlog()
    answers: Count | None = None
    life: Count = 0


class Done(Message, frozen=True, tag_field="type", tag="done"):
    """A node's end of one piece of work; `outcome` is `answered`, `cancelled` or a failure code.

    `number` counts the node's answers to hubs from 1 in each `life` of its process (epochs rise with each connection),
    so that who keeps records can tell what is missing; `again` says that this was told before.
    """

    hub: str
    device: str
    id: str
    attempt: Count
    bundle: str
    outcome: Literal["answered", "cancelled"] | Code
    message: str = ""
    tokens: Tokens = Tokens()
    timing_ms: Timing = Timing()
    backlog: Backlog = Backlog()
    number: Count | None = None
    life: Count = 0
    again: bool = False
    answer_bytes: Count = 0


class OwnRecord(Message, frozen=True):
    """A question that a node answered, or failed, for its own device without any hub; `ago_ms` since it ended."""

    device: Name
    id: QuestionId
    bundle: str
    model: str
    task: str
    outcome: Literal["answered"] | Code
    ago_ms: Milliseconds
    total_ms: Milliseconds
    question_bytes: Count = 0
    tokens: Tokens = Tokens()
    timing_ms: Timing = Timing()


class OwnRecords(Message, frozen=True, tag_field="type", tag="own_records"):
    """What a node did on its own, for one hub to keep. Sent again until that hub says Kept with the same `seq`."""

    hub: str
    seq: Count
    records: Annotated[tuple[OwnRecord, ...], Meta(max_length=1000)]


Report = Pong | Done | OwnRecords


# --- from a hub -----------------------------------------------------------------------------------------


class Expected(Message, frozen=True):
    """The compute that a hub predicts: before the first token, and for so many."""

    before_ms: Milliseconds = 0.0
    decode_ms: Milliseconds = 0.0
    tokens: Annotated[float, Meta(ge=0, le=1e9)] = 0.0


class Work(Message, frozen=True):
    """One question for one node. `question.id` is set; `budget_ms` is what is left of its deadline.

    `expected` is for other hubs: they hear Work, too, and see by it what loads the node.
    """

    hub: Name
    device: Name
    question: Question
    attempt: Count
    budget_ms: Milliseconds
    bundle: str
    reply_to: Annotated[str, Meta(max_length=MAX_REPLY_CHARS)]
    correlation: Annotated[bytes, Meta(max_length=65_535)] | None = None
    plain: bool = False
    expected: Expected = Expected()


class Ping(Message, frozen=True, tag_field="type", tag="ping"):
    """A node answers it with a Pong at once."""

    hub: Name
    seq: Count


class Cancel(Message, frozen=True, tag_field="type", tag="cancel"):
    """The answer is no longer wanted from this node."""

    device: Name
    id: str
    attempt: Count


class Drain(Message, frozen=True, tag_field="type", tag="drain"):
    """Finish what is there, take nothing new; `on` false takes it back."""

    on: bool = True


class Kept(Message, frozen=True, tag_field="type", tag="kept"):
    """A hub has the OwnRecords of that `seq`: the node need not keep them any more."""

    hub: Name
    seq: Count


class Retell(Message, frozen=True, tag_field="type", tag="retell"):
    """A hub has not heard all answers of this life: tell Done again for some, from number `first` on."""

    hub: Name
    first: Count


class Trial(Message, frozen=True):
    """When a new bundle goes back: more than this share of its questions fails, or takes longer by more than this share
    than predicted, within so many seconds after the switch.
    """

    max_failure: Share = 0.02
    max_slower: Annotated[float, Meta(ge=0, le=100)] = 0.2
    seconds: Annotated[float, Meta(gt=0, le=86_400)] = 60.0


class Desired(Message, frozen=True):
    """Retained: the bundle that a node is to serve, or with `undo` the one that it had before this rollout.

    `epoch` goes up with each Desired of a node. `manifest` and `signature` are the SHA-256 of `manifest.json` and
    `model.sig`; both, and each file that the manifest names, are at `{source}/blobs/{sha256}`, at any of `sources`.
    The bundle takes the place of the one that serves `replaces`, a model's name, and stands beside the others where
    there is none.
    """

    epoch: Count
    rollout: Name
    bundle: Word
    version: Count
    replaces: Word
    manifest: Sha256
    signature: Sha256 | None = None
    size_bytes: Count = 0
    sources: Annotated[tuple[Annotated[str, Meta(max_length=512, pattern=_LINE)], ...], Meta(max_length=8)] = ()
    trial: Trial = Trial()
    undo: bool = False


Control = Ping | Cancel | Drain | Kept | Retell


class Offer(Message, frozen=True):
    """The terms at which the fleet answers now, seen from a hub: what stands in the delay's formula for one node."""

    task: str
    model: str
    node: str
    bundle: str
    context: Count
    network_ms: Milliseconds
    wait_ms: Milliseconds
    fixed_ms: Milliseconds
    prefill_ms_per_token: Milliseconds
    decode_ms_per_token: Milliseconds


class HubState(Message, frozen=True):
    """Retained: that a hub is there, and the best two nodes for each task and model. As a will it says `offline`.

    `alone` says that it takes every ask of its broker, and shares none with other hubs.
    """

    epoch: Count
    status: Literal["ready", "offline"]
    offers: tuple[Offer, ...] = ()
    alone: bool = False


class HubPresence(Message, frozen=True):
    """What another hub reads of a HubState."""

    epoch: Count
    status: Literal["ready", "offline"]
    alone: bool = False


# --- bytes ----------------------------------------------------------------------------------------------

_T = TypeVar("_T")
_encoder = msgspec.json.Encoder()
_question_decoder = msgspec.json.Decoder(Question)
_node_state_decoder = msgspec.json.Decoder(NodeState)
_report_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
_work_decoder = msgspec.json.Decoder(Work)
_control_decoder: msgspec.json.Decoder[Control] = msgspec.json.Decoder(Control)
_desired_decoder = msgspec.json.Decoder(Desired)
_hub_state_decoder = msgspec.json.Decoder(HubState)
_hub_presence_decoder = msgspec.json.Decoder(HubPresence)


def encode(message: Message) -> bytes:
    """The JSON bytes of any message."""
    return _encoder.encode(message)


def decode(decoder: msgspec.json.Decoder[_T], payload: bytes, limit_bytes: int = MAX_MESSAGE_BYTES) -> _T:
    """Decode with a size limit; everything that can be wrong becomes a WireError."""
    if len(payload) > limit_bytes:
        raise WireError("too_large", f"payload of {len(payload)} bytes, at most {limit_bytes} are taken")
    try:
        return decoder.decode(payload)
    except RecursionError:
        raise WireError("invalid", "nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise WireError("invalid", str(error)) from None


def decode_question(payload: bytes) -> tuple[Question, bool]:
    """The question in `payload`, and whether it came as plain text (so its answer goes back as such).

    Raises WireError: `too_large` above MAX_QUESTION_BYTES, else `invalid`.
    """
    if payload.startswith(b"{"):
        return decode(_question_decoder, payload, MAX_QUESTION_BYTES), False
    if len(payload) > MAX_QUESTION_BYTES:
        raise WireError("too_large", f"question of {len(payload)} bytes, at most {MAX_QUESTION_BYTES} are taken")
    try:
        return Question(question=payload.decode("utf-8")), True
    except UnicodeDecodeError:
        raise WireError("invalid", "question is neither JSON nor UTF-8 text") from None
    except ValueError as error:
        raise WireError("invalid", str(error)) from None


def decode_node_state(payload: bytes) -> NodeState:
    """Raises WireError."""
    return decode(_node_state_decoder, payload)


def decode_report(payload: bytes) -> Report:
    """Raises WireError."""
    return decode(_report_decoder, payload)


def decode_work(payload: bytes) -> Work:
    """Raises WireError; a Work without a question id, or replying outside its device's topic, is invalid."""
    work = decode(_work_decoder, payload)
    if work.question.id is None:
        raise WireError("invalid", "work without a question id")
    if reply_topic(work.device, work.reply_to) != work.reply_to:
        raise WireError("invalid", f"reply topic {work.reply_to!r} is not under the answer topic of {work.device!r}")
    return work


def decode_control(payload: bytes) -> Control:
    """Raises WireError."""
    return decode(_control_decoder, payload)


def decode_desired(payload: bytes) -> Desired:
    """Raises WireError."""
    return decode(_desired_decoder, payload)


def decode_hub_state(payload: bytes) -> HubState:
    """Raises WireError."""
    return decode(_hub_state_decoder, payload)


def decode_hub_presence(payload: bytes) -> HubPresence:
    """A HubState without what it offers. Raises WireError."""
    return decode(_hub_presence_decoder, payload)


class _ReplyProbe(msgspec.Struct):
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    seq: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_probe_decoder = msgspec.json.Decoder(_ReplyProbe)
_answer_decoder = msgspec.json.Decoder(Answer)
_chunk_decoder = msgspec.json.Decoder(Chunk)
_failure_decoder = msgspec.json.Decoder(Failure)


def decode_reply(payload: bytes) -> Answer | Chunk | Failure:
    """What came back on an answer topic; told apart by `error` and `seq`. Raises WireError."""
    probe = decode(_probe_decoder, payload)
    if probe.error is not msgspec.UNSET:
        return decode(_failure_decoder, payload)
    if probe.seq is not msgspec.UNSET:
        return decode(_chunk_decoder, payload)
    return decode(_answer_decoder, payload)
