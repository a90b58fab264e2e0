"""The wire format: what is taken, what is refused, and the very bytes that cross."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import wire
from hub.errors import WireError

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
durations = st.floats(min_value=0, max_value=1e12, allow_nan=False)
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)


@given(st.sampled_from(list(wire._SHAPES)), names)
def test_parse_undoes_str(kind: wire.TopicKind, name: str) -> None:
    """Every topic that is built is parsed back to itself."""
    assert wire.Topic.parse(str(wire.Topic(kind, name))) == wire.Topic(kind, name)


@given(st.text(max_size=60))
def test_parse_never_raises(text: str) -> None:
    """Any text is a topic of ours or none."""
    topic = wire.Topic.parse("edge/v1/" + text)
    assert topic is None or str(topic) == "edge/v1/" + text


@pytest.mark.parametrize("name", ["a/b", "", "+", "#", "a b", "-x", "é", "a" * 65, "a\n"])
def test_name_refused(name: str) -> None:
    """What could be a wildcard, a level or a line break names nobody."""
    assert not wire.is_name(name)
    assert wire.Topic.parse(f"edge/v1/ask/{name}") is None


@pytest.mark.parametrize(
    ("asked_for", "given_back"),
    [
        (None, "edge/v1/answer/kitchen"),
        ("edge/v1/answer/kitchen", "edge/v1/answer/kitchen"),
        ("edge/v1/answer/kitchen/7", "edge/v1/answer/kitchen/7"),
        ("edge/v1/answer/kitchen2", "edge/v1/answer/kitchen"),
        ("edge/v1/answer/hall", "edge/v1/answer/kitchen"),
        ("edge/v1/answer/kitchen/#", "edge/v1/answer/kitchen"),
        ("edge/v1/node/n/work", "edge/v1/answer/kitchen"),
    ],
)
def test_reply_topic_stays_with_the_device(asked_for: str | None, given_back: str) -> None:
    """A Response Topic is honoured only under the asking device's own answer topic."""
    assert wire.reply_topic("kitchen", asked_for) == given_back


def test_plain_text_is_the_question() -> None:
    """UTF-8 that does not start with a brace is the question itself."""
    question, plain = wire.decode_question("Où est [Paris]?".encode())
    assert (question.question, plain) == ("Où est [Paris]?", True)


def test_unknown_fields_are_ignored() -> None:
    """A newer client may say more than we know."""
    question, plain = wire.decode_question(b'{"question": "why?", "colour": {"deep": [1, {}]}}')
    assert (question.question, plain) == ("why?", False)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "invalid"),
        (b"   \n", "invalid"),
        (b"\xff\xfe", "invalid"),
        (b"{", "invalid"),
        (b"{}", "invalid"),
        (b'{"question": ""}', "invalid"),
        (b'{"question": 7}', "invalid"),
        (b'{"question": "a", "text": "b"}', "invalid"),
        (b'{"messages": []}', "invalid"),
        (b'{"messages": [{"role": "root", "content": "x"}]}', "invalid"),
        (b'{"question": "a", "deadline_ms": 0}', "invalid"),
        (b'{"question": "a", "deadline_ms": 1e999}', "invalid"),
        (b'{"question": "a", "max_tokens": 0}', "invalid"),
        (b'{"question": "a", "temperature": -1}', "invalid"),
        (b'{"question": "a", "id": ""}', "invalid"),
        (b'{"question": "\\ud800"}', "invalid"),
        (b'{"question": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid"),
        (b"x" * (wire.MAX_QUESTION_BYTES + 1), "too_large"),
        (b'{"question": "' + b"x" * wire.MAX_QUESTION_BYTES + b'"}', "too_large"),
    ],
)
def test_question_refused(payload: bytes, code: str) -> None:
    """What is no question gets a typed refusal."""
    with pytest.raises(WireError) as refusal:
        wire.decode_question(payload)
    assert refusal.value.code == code


@given(st.binary(max_size=200))
def test_garbage_is_a_wire_error(payload: bytes) -> None:
    """Random bytes decode to a message or raise WireError, nothing else, on every topic."""
    decoders = (
        wire.decode_question,
        wire.decode_node_state,
        wire.decode_report,
        wire.decode_work,
        wire.decode_control,
        wire.decode_hub_state,
        wire.decode_reply,
    )
    for decode in decoders:
        with contextlib.suppress(WireError):
            assert decode(payload) is not None


@given(texts, durations, st.integers(1, 9), st.none() | st.binary(max_size=20), names)
def test_work_survives_the_wire(
    text: str, budget_ms: float, attempt: int, correlation: bytes | None, device: str
) -> None:
    """decode(encode(x)) is x for work, whatever the question, budget and correlation."""
    work = wire.Work(
        hub="h",
        device=device,
        question=wire.Question(id="1", question=text),
        attempt=attempt,
        budget_ms=budget_ms,
        bundle="b",
        reply_to=f"edge/v1/answer/{device}",
        correlation=correlation,
    )
    assert wire.decode_work(wire.encode(work)) == work


def test_work_replies_only_to_its_device() -> None:
    """A node publishes nothing outside the answer topic of the device that asked."""
    work = wire.Work(
        hub="h", device="kitchen", question=wire.Question(id="1", question="?"), attempt=1,
        budget_ms=1, bundle="b", reply_to="edge/v1/node/n/work",
    )  # fmt: skip
    with pytest.raises(WireError, match="not under the answer topic"):
        wire.decode_work(wire.encode(work))


def test_replies_are_told_apart() -> None:
    """Answer, chunk and failure come back as what they are."""
    replies = [
        wire.Answer(id="1", node="n", bundle="b", finish="stop", attempt=1, text="Paris"),
        wire.Chunk(id="1", attempt=1, node="n", seq=0, text="Pa"),
        wire.Failure(id="1", error=wire.Problem(code="deadline", message="late")),
    ]
    assert [wire.decode_reply(wire.encode(reply)) for reply in replies] == replies


GOLDEN = [
    (
        wire.Question(id="1", question="why?", deadline_ms=5000.0, stream=True),
        b'{"id":"1","question":"why?","deadline_ms":5000.0,"stream":true}',
    ),
    (
        wire.NodeState(epoch=7, status="offline"),
        b'{"epoch":7,"status":"offline"}',
    ),
    (wire.Ping(hub="h", seq=3), b'{"type":"ping","hub":"h","seq":3}'),
    (wire.Cancel(device="d", id="1", attempt=2), b'{"type":"cancel","device":"d","id":"1","attempt":2}'),
    (wire.Drain(), b'{"type":"drain"}'),
    (
        wire.Pong(hub="h", seq=3, hold_ms=0.5, backlog=wire.Backlog(questions=1, ms=2.0)),
        b'{"type":"pong","hub":"h","seq":3,"hold_ms":0.5,"backlog":{"questions":1,"ms":2.0}}',
    ),
    (
        wire.Failure(id="1", error=wire.Problem(code="overloaded", message="full", retry_after_ms=10.0)),
        b'{"id":"1","error":{"code":"overloaded","message":"full","retry_after_ms":10.0}}',
    ),
    (
        wire.Answer(
            id="1", node="n", bundle="b", finish="stop", attempt=1, text="Paris",
            tokens=wire.Tokens(prompt=37, completion=8), timing_ms=wire.Timing(queue=1.0, compute=2.0),
        ),
        b'{"id":"1","node":"n","bundle":"b","finish":"stop","attempt":1,"text":"Paris",'
        b'"tokens":{"prompt":37,"completion":8},"timing_ms":{"queue":1.0,"compute":2.0}}',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "payload"), GOLDEN)
def test_golden_bytes(message: wire.Message, payload: bytes) -> None:
    """The bytes on the wire are a contract with every client that is out there."""
    assert wire.encode(message) == payload
    assert msgspec.json.Decoder(type(message)).decode(payload) == message


def test_what_a_node_is_to_serve_crosses_whole() -> None:
    """And a hash, a share or a length of time that is none is refused."""
    desired = wire.Desired(
        epoch=3,
        rollout="smollm2-v2",
        bundle="smollm2-desktop-cpu-0123456789ab",
        version=2,
        replaces="SmolLM2-135M-Instruct",
        manifest="0" * 64,
        size_bytes=10,
        sources=("https://hub:8443",),
    )
    assert wire.encode(desired) == (
        b'{"epoch":3,"rollout":"smollm2-v2","bundle":"smollm2-desktop-cpu-0123456789ab","version":2,'
        b'"replaces":"SmolLM2-135M-Instruct","manifest":"' + b"0" * 64 + b'","size_bytes":10,'
        b'"sources":["https://hub:8443"]}'
    )
    assert wire.decode_desired(wire.encode(desired)) == desired
    lines = (("bundle", "a\nb"), ("replaces", "a\x1b[2J"), ("sources", ["https://h\r\nx"]))  # they go into logs
    bounds = (("manifest", "0" * 63), ("signature", "G" * 64), ("trial", {"max_failure": 2}), ("epoch", -1))
    for name, value in (*lines, *bounds):
        wrong = msgspec.to_builtins(desired) | {name: value}
        with pytest.raises(WireError):
            wire.decode_desired(msgspec.json.encode(wrong))
