"""Requests of the OpenAI API become our questions, our answers its objects."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import openai_form as form
from edge_agent.events import Refusal
from hub import wire


def question(body: dict[str, Any], kind: type[Any] = form.ChatRequest) -> wire.Question:
    return form.question_of(form.decode_request(msgspec.json.encode({"model": "m", **body}), kind))


def test_a_chat_request_becomes_a_question() -> None:
    """Roles, limits and sampling; a developer speaks as the system, and unknown fields are ignored."""
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi", "name": "x"}]
    given = {"max_completion_tokens": 5, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": "END"}
    assert question({"messages": turns, **given, "user": "u"}) == wire.Question(
        messages=(wire.ChatMessage(role="system", content="Be brief."), wire.ChatMessage(role="user", content="Hi")),
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        seed=3,
        stop=("END",),
    )


def test_a_completion_request_becomes_bare_text() -> None:
    """A list of one prompt is that prompt; two are refused."""
    assert question({"prompt": ["once"]}, form.CompletionRequest) == wire.Question(text="once")
    with pytest.raises(form.ApiError, match="2 prompts"):
        question({"prompt": ["a", "b"]}, form.CompletionRequest)
    for field, value in (("echo", True), ("suffix", "x"), ("best_of", 2), ("logprobs", 1)):
        with pytest.raises(form.ApiError, match=f"{field} is not supported"):
            question({"prompt": "a", field: value}, form.CompletionRequest)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                        ["model", "messages", "prompt", "input", "role", "content", "stop", "stream"]), inner),
                    max_leaves=8))  # fmt: skip
def test_any_body_is_a_request_or_an_error(body: Any) -> None:
    """Never anything else."""
    for kind in (form.ChatRequest, form.CompletionRequest, form.EmbeddingRequest):
        with contextlib.suppress(form.ApiError):
            asked = form.decode_request(msgspec.json.encode(body), kind)
            if kind is not form.EmbeddingRequest:
                assert isinstance(form.question_of(asked), wire.Question)


@pytest.mark.parametrize("code", get_args(wire.Code))
def test_every_failure_has_a_status(code: wire.Code) -> None:
    """What the asker can mend is 400, what it can only wait for is not."""
    error = form.api_error(Refusal(code, "why"))
    assert (error.status == 400) == (code in ("invalid", "too_large", "unsupported"))
    assert error.body["error"]["message"] == "why"


def test_a_stream_of_completions_has_no_roles() -> None:
    """Its pieces are `text`, and it begins with the first of them."""
    frame = form.Frame(id="cmpl-1", model="m", created=1, chat=False)
    assert frame.first() is None
    assert frame.piece("a")["choices"][0]["text"] == "a"
    assert frame.piece("a")["object"] == "text_completion"
