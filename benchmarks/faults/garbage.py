"""Messages that nobody should send: valid ones of every kind, changed at random. Drawn from a seed; pure.

Whether what comes out is malformed or only odd is not decided here: `wire` decides it.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from hub import wire

NODES: Final = ("n1", "n2", "ghost", "Ghost-2", "x" * 64)
DEVICES: Final = ("kitchen", "a", "b.c", "d_e", "y" * 64)
_BUNDLE: Final = {
    "bundle": "smol-int4", "model": "smol", "task": "text-generation", "context": 2048,
    "fixed_ms": 2.0, "prefill_ms_per_token": 1.0, "decode_ms_per_token": 5.0,
}  # fmt: skip
_DONE: Final = {
    "type": "done", "hub": "hub", "device": "kitchen", "id": "q1", "attempt": 1, "bundle": "smol-int4",
    "outcome": "answered", "tokens": {"prompt": 9, "completion": 4}, "timing_ms": {"compute": 12.5},
    "backlog": {"questions": 1, "ms": 3.0},
}  # fmt: skip
_OWN: Final = {
    "device": "kitchen", "id": "own-1", "bundle": "smol-int4", "model": "smol", "task": "text-generation",
    "outcome": "answered", "ago_ms": 5.0, "total_ms": 20.0,
}  # fmt: skip
VALID: Final[dict[wire.TopicKind, tuple[dict[str, Any], ...]]] = {
    "ask": (
        {"id": "q1", "question": "Why?", "deadline_ms": 5000.0, "max_tokens": 8},
        {"messages": [{"role": "user", "content": "Why?"}], "stream": True, "session": "s", "stop": ["."]},
        {"id": "q2", "text": "Because.", "task": "text-classification", "model": "smol", "temperature": 0.5},
    ),
    "node_state": (
        {"epoch": 5, "status": "ready", "bundles": [_BUNDLE], "backlog": {"questions": 1, "ms": 9.0}, "parallel": 2},
        {"epoch": 6, "status": "offline"},
        {"epoch": 4, "status": "draining", "bundles": [_BUNDLE], "machine": {"cpu": 0.5, "gpu": None}},
    ),
    "report": (
        _DONE,
        {"type": "pong", "hub": "hub", "seq": 3, "hold_ms": 0.2, "backlog": {"questions": 0, "ms": 0.0}},
        {"type": "own_records", "hub": "hub", "seq": 1, "records": [_OWN]},
    ),
    "work": (
        {
            "hub": "hub", "device": "kitchen", "question": {"id": "q1", "question": "Why?"}, "attempt": 1,
            "budget_ms": 5000.0, "bundle": "smol-int4", "reply_to": "edge/v1/answer/kitchen", "correlation": "cTE=",
        },
    ),
    "control": (
        {"type": "ping", "hub": "hub", "seq": 4},
        {"type": "cancel", "device": "kitchen", "id": "q1", "attempt": 1},
        {"type": "drain", "on": True},
        {"type": "kept", "hub": "hub", "seq": 1},
    ),
    "hub_state": ({"epoch": 7, "status": "ready", "offers": []},),
    "answer": (
        {"id": "q1", "error": {"code": "deadline", "message": "late", "retry_after_ms": 3.0}},
        {"id": "q1", "text": "So.", "finish": "stop", "node": "n1", "bundle": "smol-int4", "attempt": 1},
        {"id": "q1", "attempt": 1, "node": "n1", "seq": 0, "text": "S"},
    ),
}  # fmt: skip

_WEIRD: Final[tuple[Callable[[random.Random], Any], ...]] = (
    lambda rng: None,
    lambda rng: rng.choice((True, False)),
    lambda rng: rng.choice((0, -1, 1, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400)),
    lambda rng: rng.choice((0.0, -0.0, 1e-320, 1e12, 1e13, 1e300, float("nan"), float("inf"), -float("inf"), 0.5)),
    lambda rng: rng.choice(("", " ", "\0", "\ud800", "\u202e", "é" * 64, "a" * 129, "#", "+/x", "1", "null")),
    lambda rng: "z" * rng.choice((257, 5000)),
    lambda rng: rng.choice(([], {}, [[]], [None], {"": {}}, [{"id": 1}] * 3)),
    lambda rng: _nested(rng.choice((2, 50, 3000))),
)
_BROKEN_TOPICS: Final = (
    "edge/v1", "edge/v1/", "edge/v2/ask/kitchen", "edge/v1/ask/", "edge/v1/ask/a/b", "edge/v1/ask/" + "n" * 65,
    "edge/v1/node//state", "edge/v1/node/n1", "edge/v1/node/n1/other", "edge/v1/ask/é", "edge/v1/ask/-a", "ask/kitchen",
    "edge/v1/ask/a b", "EDGE/V1/ask/kitchen", "edge/v1/node/n1/state/", "",
)  # fmt: skip
_SHAPES: Final[tuple[wire.TopicKind, ...]] = (*VALID, "ask", "node_state", "report")  # what hubs hear, twice as often


class Wild(msgspec.Struct, frozen=True, kw_only=True):
    """A message with everything that MQTT lets a sender choose."""

    topic: str
    payload: bytes
    retained: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None


def messages(seed: int, count: int) -> Iterator[Wild]:
    """`count` messages on every topic of ours and some others; about one in twenty is left as it was."""
    rng = random.Random(f"garbage {seed}")
    for _ in range(count):
        kind = rng.choice(_SHAPES)
        payload = _payload(rng, rng.choice(VALID[kind]))
        yield Wild(
            topic=_topic(rng, kind),
            payload=payload,
            retained=rng.random() < 0.15,
            response_topic=_response_topic(rng) if rng.random() < 0.3 else None,
            correlation=_correlation(rng) if rng.random() < 0.3 else None,
            expiry_s=rng.choice((0, 1, 30, 2**32 - 1)) if rng.random() < 0.3 else None,
        )


def _topic(rng: random.Random, kind: wire.TopicKind) -> str:
    if rng.random() < 0.05:
        return rng.choice(_BROKEN_TOPICS)
    if rng.random() < 0.1:
        kind = rng.choice(_SHAPES)
    names = DEVICES if kind in ("ask", "answer") else ("hub", "hub-2") if kind == "hub_state" else NODES
    return str(wire.Topic(kind, rng.choice(names)))


def _response_topic(rng: random.Random) -> str:
    return rng.choice(
        ("edge/v1/answer/kitchen", "edge/v1/answer/kitchen/7", "edge/v1/node/n1/work", "#", "", "edge/v1/answer/a/\0",
         "edge/v1/answer/kitchen/" + "t" * 60_000, "x")
    )  # fmt: skip


def _correlation(rng: random.Random) -> bytes:
    return rng.choice((b"", b"q1", b"\xff\xfe", b"\0", rng.randbytes(16), b"c" * 65_535))


def _payload(rng: random.Random, valid: dict[str, Any]) -> bytes:
    """The document with changes in its fields, or in its bytes, or in both."""
    document = copy.deepcopy(valid)
    ways = rng.random()
    if ways < 0.05:
        return _bytes_of(document)
    if ways < 0.75:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            _change_a_field(rng, document)
    payload = _bytes_of(document)
    return _changed_bytes(rng, payload) if ways > 0.55 else payload


def _change_a_field(rng: random.Random, document: dict[str, Any]) -> None:
    holder = _some_object(rng, document)
    way = rng.choice(("replace", "replace", "replace", "remove", "add", "rename"))
    key = rng.choice(list(holder)) if holder else ""
    if way == "add" or not holder:
        holder[rng.choice(("extra", "", "\0", "id", "type", "error", "seq"))] = rng.choice(_WEIRD)(rng)
    elif way == "remove":
        del holder[key]
    elif way == "rename":
        holder[key.upper() or "x"] = holder.pop(key)
    else:
        holder[key] = rng.choice(_WEIRD)(rng)


def _some_object(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    """The document, or an object somewhere in it."""
    objects, unseen = [document], list(document.values())
    while unseen:
        value = unseen.pop()
        if isinstance(value, dict):
            objects.append(value)
            unseen += value.values()
        elif isinstance(value, list):
            unseen += value[:4]
    return rng.choice(objects[:8])


def _bytes_of(document: dict[str, Any]) -> bytes:
    """JSON as Python writes it, NaN and lone surrogates included; what is nested too deep for it is cut."""
    try:
        return json.dumps(document).encode()
    except RecursionError:
        return b'{"question": ' + b"[" * 100_000


def _changed_bytes(rng: random.Random, payload: bytes) -> bytes:
    way = rng.randrange(9)
    at = rng.randrange(len(payload) + 1)
    if way == 0:
        return payload[:at]
    if way == 1:
        return payload[:at] + rng.randbytes(rng.randint(1, 4)) + payload[at:]
    if way == 2:
        return payload[:at] + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b"\xf5")) + payload[at + 1 :]
    if way == 3:
        return payload + payload
    if way == 4:
        return rng.choice((b"", b"{", b"null", b"[]", b"{}", b"0", b'"text"', b"\xef\xbb\xbf{}", b"\0", b" ", b"\xff"))
    if way == 5:
        return rng.randbytes(rng.randint(1, 300))
    if way == 6 and rng.random() < 0.05:
        return b"{" + b" " * (wire.MAX_MESSAGE_BYTES + 1)
    if way == 7 and rng.random() < 0.2:
        return b'{"x":' * rng.choice((60, 30_000))
    cut = rng.randrange(len(payload) + 1)
    return payload[: min(at, cut)] + payload[max(at, cut) :]


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value
