"""The OpenAI API's form of questions and answers, and ours: translated, no more.

Requests are decoded and checked here; unknown fields are ignored, as in that API, and fields that would change the
answer in a way that cannot be had are refused. Reference: https://platform.openai.com/docs/api-reference. Knows nothing
of HTTP but the status codes of errors.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_agent.events import Refusal
from hub import wire

Role = Literal["system", "developer", "user", "assistant"]
Stops = str | tuple[str, ...] | None
_STATUS: Final[dict[str, tuple[int, str]]] = {
    "invalid": (400, "invalid_request_error"),
    "too_large": (400, "invalid_request_error"),
    "unsupported": (400, "invalid_request_error"),
    "overloaded": (503, "server_error"),
    "no_node": (503, "server_error"),
    "deadline": (504, "server_error"),
    "internal": (500, "server_error"),
}


class ApiError(Exception):
    """What a request is answered with instead: an HTTP status and the API's error object."""

    def __init__(self, status: int, message: str, *, kind: str, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def api_error(refusal: Refusal) -> ApiError:
    """A failure of ours in that API's words."""
    status, kind = _STATUS[refusal.code]
    code = "context_length_exceeded" if refusal.code == "too_large" else refusal.code
    return ApiError(status, refusal.message, kind=kind, code=code)


def invalid(message: str, param: str | None = None) -> ApiError:
    """A request that is not what it should be."""
    return ApiError(400, message, kind="invalid_request_error", param=param)


# --- requests -------------------------------------------------------------------------------------------


class TextPart(msgspec.Struct):
    """One part of a message. Only text is taken."""

    type: str
    text: str | None = None


class ChatTurn(msgspec.Struct):
    """One message; content may come in parts."""

    role: Role
    content: str | tuple[TextPart, ...] | None = None


class StreamOptions(msgspec.Struct):
    """What a stream holds beside text."""

    include_usage: bool = False


class Sampling(msgspec.Struct, kw_only=True):
    """What chat and completion requests have in common."""

    model: str
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Stops = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    tools: tuple[Any, ...] | None = None
    response_format: Any = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None


class ChatRequest(Sampling, kw_only=True):
    """POST /v1/chat/completions."""

    messages: tuple[ChatTurn, ...]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    logprobs: bool | None = None


class CompletionRequest(Sampling, kw_only=True):
    """POST /v1/completions."""

    prompt: str | tuple[str, ...]
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: int | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """POST /v1/embeddings."""

    model: str
    input: str | tuple[str, ...]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


def decode_request(body: bytes, kind: type[Any]) -> Any:
    """The request in `body`, of one of the types above. Raises ApiError."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"the body is not a valid request: {error}") from None


def question_of(request: ChatRequest | CompletionRequest) -> wire.Question:
    """The question behind a request. Raises ApiError for what cannot be had."""
    _refuse(request)
    stop = (request.stop,) if isinstance(request.stop, str) else request.stop
    given: dict[str, Any] = {"max_tokens": request.max_tokens}
    if isinstance(request, ChatRequest):
        given["messages"] = tuple(map(_turn, request.messages))
        given["max_tokens"] = request.max_completion_tokens or request.max_tokens
    else:
        given["text"] = request.prompt if isinstance(request.prompt, str) else _only(request.prompt)
    for name in ("temperature", "top_p", "seed", "stream"):
        given[name] = getattr(request, name)
    raw = {name: value for name, value in given.items() if value is not None}
    if stop:
        raw["stop"] = stop
    try:
        return msgspec.convert(msgspec.to_builtins(raw), wire.Question)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None


def _refuse(request: ChatRequest | CompletionRequest) -> None:
    form = request.response_format
    wanted = {
        "n": request.n not in (None, 1),
        "tools": bool(request.tools),
        "response_format": form is not None and form != {"type": "text"},
        "presence_penalty": bool(request.presence_penalty),
        "frequency_penalty": bool(request.frequency_penalty),
        "logit_bias": bool(request.logit_bias),
        "logprobs": bool(request.logprobs),
    }
    if isinstance(request, CompletionRequest):
        wanted |= {
            "echo": bool(request.echo),
            "suffix": bool(request.suffix),
            "best_of": request.best_of not in (None, 1),
        }
    for param, is_wanted in wanted.items():
        if is_wanted:
            raise invalid(f"{param} is not supported here: leave it out", param)


def _turn(turn: ChatTurn) -> wire.ChatMessage:
    content = turn.content
    if isinstance(content, tuple):
        if any(part.type != "text" or part.text is None for part in content):
            raise invalid("only text is taken: each part of content must be {'type': 'text', 'text': ...}", "messages")
        content = "".join(part.text or "" for part in content)
    role = "system" if turn.role == "developer" else turn.role
    return wire.ChatMessage(role=role, content=content or "")


def _only(prompts: tuple[str, ...]) -> str:
    if len(prompts) != 1:
        raise invalid(f"{len(prompts)} prompts in one request: send one", "prompt")
    return prompts[0]


# --- answers --------------------------------------------------------------------------------------------


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What every object of one answer repeats. `created` is in seconds since 1970."""

    id: str
    model: str
    created: int
    chat: bool

    def whole(self, answer: wire.Answer) -> dict[str, Any]:
        """The answer in one object."""
        text = answer.text or ""
        choice: dict[str, Any] = {"index": 0, "finish_reason": answer.finish, "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": _usage(answer.tokens), "edgefleet": how(answer)}

    def first(self) -> dict[str, Any] | None:
        """What a stream begins with: who speaks. None for a completion, which has no roles."""
        return self._chunk({"role": "assistant", "content": ""}, None) if self.chat else None

    def piece(self, text: str) -> dict[str, Any]:
        """More text."""
        return self._chunk({"content": text} if self.chat else text, None)

    def last(self, answer: wire.Answer) -> dict[str, Any]:
        """Why the text ends, and how it came about."""
        return {**self._chunk({} if self.chat else "", answer.finish), "edgefleet": how(answer)}

    def usage(self, answer: wire.Answer) -> dict[str, Any]:
        """Token counts, where the stream was to have them."""
        return {**self._chunk({}, None), "choices": [], "usage": _usage(answer.tokens)}

    def _chunk(self, delta: dict[str, Any] | str, finish: str | None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        choice = {"index": 0, "finish_reason": finish, "logprobs": None, "delta" if self.chat else "text": delta}
        return {**self._head(kind), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def how(answer: wire.Answer) -> dict[str, Any]:
    """What that API has no place for: which node answered, why that one, and where the milliseconds went."""
    told: dict[str, Any] = {name: getattr(answer, name) for name in ("node", "bundle", "attempt", "timing_ms")}
    return told if answer.route is None else {**told, "route": answer.route}


def _usage(tokens: wire.Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
    }


def embeddings(request: EmbeddingRequest, answers: list[wire.Answer]) -> dict[str, Any]:
    """One object with a vector for each input, in order."""
    prompt = sum(answer.tokens.prompt for answer in answers)
    return {
        "object": "list",
        "model": request.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _vector(answer.embedding or (), request)}
            for index, answer in enumerate(answers)
        ],
        "usage": {"prompt_tokens": prompt, "total_tokens": prompt},
        "edgefleet": [how(answer) for answer in answers],
    }


def _vector(embedding: tuple[float, ...], request: EmbeddingRequest) -> list[float] | str:
    if request.encoding_format == "float":
        return list(embedding)
    return base64.b64encode(np.asarray(embedding, "<f4").tobytes()).decode()


def models(served: Sequence[wire.ServedBundle | wire.Offer]) -> list[dict[str, Any]]:
    """What may be asked for as `model`: each bundle under its id, and the first of each model under its name."""
    names: dict[str, wire.ServedBundle | wire.Offer] = {}
    for one in served:
        names.setdefault(one.model, one)
        names.setdefault(one.bundle, one)
    return [
        {"id": name, "object": "model", "created": 0, "owned_by": "edgefleet", "task": one.task, "context": one.context}
        for name, one in names.items()
    ]
