"""The OpenAI API as its own client speaks it, over HTTP, without a broker."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest

from edge_agent import api
from edge_agent.api import application
from edge_agent.runtime.encoder_answerer import EncoderAnswerer
from edge_agent.runtime.encoder_engine import open_encoder
from edge_agent.runtime.engine import Engine, open_engine
from edge_agent.runtime.generation import OneByOne
from edge_agent.service import AgentService
from hub import wire
from hub.http_server import Address, HttpServer
from tests.edge_agent.encoder_bundles import encoder_bundle

NO_BROKER = "mqtt://127.0.0.1:9"  # nobody listens there: answers of this device need none


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return open_engine(tiny_bundle, threads=1, parallel=2, prefix_bytes=1_000_000)


@pytest.fixture(scope="module")
def service(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentService]:
    words = {"good": (3.0, 4.0), "bad": (0.0, 1.0)}
    encoder = open_encoder(encoder_bundle(tmp_path_factory.mktemp("e"), "feature-extraction", words), threads=1)
    vectors = OneByOne(EncoderAnswerer(encoder))
    node = AgentService(NO_BROKER, "n", {engine.served.bundle: engine, vectors.served.bundle: vectors})
    thread = threading.Thread(target=node.run, daemon=True)
    thread.start()
    yield node
    node.stop()
    thread.join(10)


@pytest.fixture(scope="module")
def served(service: AgentService) -> Iterator[Callable[..., str]]:
    """Start servers over the node; the address of each."""
    servers: list[HttpServer] = []

    def start(**options: Any) -> str:
        servers.append(HttpServer(application(service, **options), Address("127.0.0.1", 0)))
        servers[-1].start()
        return f"http://{servers[-1].address}"

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def url(served: Callable[..., str]) -> str:
    return served()


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def chat(client: openai.OpenAI, engine: Engine, **options: Any) -> Any:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital?"}]
    return client.chat.completions.create(
        **{"model": engine.served.bundle, "messages": messages, "max_tokens": 12, **options}
    )


def test_a_chat_is_answered_with_usage(client: openai.OpenAI, engine: Engine) -> None:
    """By bundle id or model name; the same again comes from what was computed before."""
    first = chat(client, engine)
    again = chat(client, engine, model=engine.served.model)
    assert first.choices[0].message.role == "assistant"
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.choices[0].finish_reason == "length"
    assert first.usage.completion_tokens == 12
    assert first.usage.total_tokens == first.usage.prompt_tokens + 12
    assert again.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens - 2


def test_a_streamed_chat_is_the_same_text(client: openai.OpenAI, engine: Engine) -> None:
    """Piece by piece, then why it ends, then the counts where they were asked for."""
    whole = chat(client, engine)
    chunks = list(chat(client, engine, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chat(client, engine, stream=True))


def test_a_completion_continues_its_prompt(client: openai.OpenAI, engine: Engine) -> None:
    """Bare text, no chat template; streamed it is the same."""
    options: dict[str, Any] = {"model": engine.served.bundle, "prompt": "The capital of France", "max_tokens": 8}
    whole = client.completions.create(**options)
    streamed = client.completions.create(**options, stream=True)
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len(engine.tokenizer.encode("The capital of France"))
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text


def test_stop_ends_before_its_text(client: openai.OpenAI, engine: Engine) -> None:
    """Neither the answer nor its stream shows any of it."""
    whole = chat(client, engine, max_tokens=40).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    stopped = chat(client, engine, max_tokens=40, stop=stop)
    streamed = list(chat(client, engine, max_tokens=40, stop=[stop, "\0never"], stream=True))
    assert stopped.choices[0].message.content == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole[: whole.index(stop)]


def test_a_seed_repeats_a_sampled_answer(client: openai.OpenAI, engine: Engine) -> None:
    """Temperature and seed reach the model."""
    texts = [chat(client, engine, temperature=1.5, top_p=0.9, seed=seed).choices[0].message for seed in (1, 1, 2)]
    assert texts[0].content == texts[1].content != texts[2].content


def test_content_may_come_in_parts(client: openai.OpenAI, engine: Engine) -> None:
    """Parts of text are one text; pictures are refused."""
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "the capital?"}]
    whole = [{"role": "user", "content": "What is the capital?"}]
    split = [{"role": "user", "content": parts}]
    assert (
        chat(client, engine, messages=split).choices[0].message.content
        == chat(client, engine, messages=whole).choices[0].message.content
    )
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(openai.BadRequestError, match="only text is taken"):
        chat(client, engine, messages=picture)


def test_embeddings_are_the_bundles_vectors(client: openai.OpenAI, service: AgentService) -> None:
    """One for each input, in order; the client asks for them in base64 and gets the same numbers."""
    model = next(one.bundle for one in service.served if one.task == "feature-extraction")
    both = client.embeddings.create(model=model, input=["good", "bad good"])
    plain = client.embeddings.create(model=model, input="good", encoding_format="float")
    assert [one.index for one in both.data] == [0, 1]
    np.testing.assert_allclose(both.data[0].embedding, plain.data[0].embedding, rtol=1e-6)
    assert both.data[0].embedding != both.data[1].embedding
    assert both.usage.prompt_tokens > plain.usage.prompt_tokens > 0


def test_models_are_listed(client: openai.OpenAI, service: AgentService) -> None:
    """Every bundle by its id and by its model's name."""
    listed = {model.id for model in client.models.list()}
    assert listed == {name for one in service.served for name in (one.bundle, one.model)}
    assert client.models.retrieve(sorted(listed)[0]).id in listed


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "gpt-9"),
        ({"messages": []}, openai.BadRequestError, "messages is empty"),
        ({"messages": [{"role": "user", "content": " "}]}, openai.BadRequestError, "is empty"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, openai.BadRequestError, "wizard"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"n": 2}, openai.BadRequestError, "n is not supported"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs is not supported"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format is not supported"),
        ({"stop": [""]}, openai.BadRequestError, "stop"),
        ({"max_tokens": 100_000}, openai.BadRequestError, "100000 answer tokens do not fit"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_had_is_an_error_of_the_apis_form(
    client: openai.OpenAI, engine: Engine, options: dict[str, Any], kind: type[openai.APIStatusError], named: str,
    stream: bool,
) -> None:  # fmt: skip
    """With a status before any text, a type, and the value."""
    with pytest.raises(kind, match=named) as caught:
        chat(client, engine, **options, stream=stream)
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["type"] == "invalid_request_error"


def test_an_embedder_does_not_chat(client: openai.OpenAI, service: AgentService, engine: Engine) -> None:
    """The error says what the model does."""
    model = next(one.bundle for one in service.served if one.task == "feature-extraction")
    with pytest.raises(openai.BadRequestError, match="does feature-extraction, not text-generation"):
        chat(client, engine, model=model)
    with pytest.raises(openai.BadRequestError, match="does text-generation, not feature-extraction"):
        client.embeddings.create(model=engine.served.bundle, input="x")


def test_bodies_that_are_none(url: str) -> None:
    """No JSON, the wrong type, too long, half a body: one error object each, and the server goes on."""
    post = f"{url}/v1/chat/completions"
    plain = httpx.post(post, content=b'{"model": "m"}', headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    headers = {"Content-Type": "application/json"}
    for content, status in ((b"{", 400), (b"\xff", 400), (b"[]", 400), (b"[" * 100_000, 400), (b" " * 5_000_000, 413)):
        answer = httpx.post(post, content=content, headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert httpx.get(f"{url}/nothing").status_code == 404


def test_prometheus_is_told(url: str, client: openai.OpenAI, engine: Engine) -> None:
    """What was asked here counts as asked here, with its failures."""
    chat(client, engine)
    with pytest.raises(openai.BadRequestError):
        chat(client, engine, max_tokens=100_000)
    answer = httpx.get(f"{url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    for outcome in ("answered", "too_large"):
        labels = f'bundle="{engine.served.bundle}",origin="here",outcome="{outcome}"'
        assert any(line.startswith(f"edge_questions_total{{{labels}}} ") for line in lines)
    assert any(line.startswith("edge_resident_bytes ") for line in lines)


def test_a_bug_is_an_error_of_the_apis_form(url: str, service: AgentService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word of what is inside; the server goes on."""

    def broken(*_: object) -> object:
        raise ZeroDivisionError("secret")

    with monkeypatch.context() as patched:
        patched.setattr(AgentService, "metrics", broken)
        answer = httpx.get(f"{url}/metrics")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert httpx.get(f"{url}/metrics").status_code == 200


def test_a_node_that_leaves_says_so(engine: Engine) -> None:
    """Who asks while it ends is told, and need not wait."""
    node = AgentService(NO_BROKER, "n", {engine.served.bundle: engine})
    node.stop()
    told: list[object] = []
    node.ask(wire.Question(question="Hi"), engine.served.bundle, told.append)()
    assert len(told) == 1
    assert "shutting down" in str(told[0])
    assert not node.ready


EVERYWHERE = Address("0.0.0.0", 80)


def test_keys_are_asked_for(served: Callable[..., str], engine: Engine) -> None:
    """Without one, or with another, nothing is answered; whether the node lives may be asked by all."""
    url = served(keys=("one-long-enough-key", "another-long-key"), address=EVERYWHERE)
    for key in ("none", "one-long-enough-ke", "one-long-enough-keys"):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0).models.list()
    good = openai.OpenAI(base_url=f"{url}/v1", api_key="another-long-key", max_retries=0)
    assert chat(good, engine).choices[0].message.content
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_keys_are_not_guessed(served: Callable[..., str]) -> None:
    """After a few wrong ones no key is looked at for a while."""
    url = served(keys=("one-long-enough-key",), address=EVERYWHERE)
    wrong = [httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(6)]
    assert wrong == [401] * 5 + [429]
    refused = httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer one-long-enough-key"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_a_page_of_another_host_cannot_ask(url: str) -> None:
    """A name that somebody else lets point to this machine is no name of it."""
    assert httpx.get(f"{url}/v1/models", headers={"Host": "evil.example:80"}).status_code == 400
    assert httpx.get(f"{url}/v1/models", headers={"Host": "localhost:80"}).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_takes_its_question_along(
    url: str, engine: Engine, service: AgentService, eventually: Callable[..., None], stream: bool
) -> None:
    """Nothing is computed for nobody."""
    body = {"model": engine.served.bundle, "max_tokens": 900, "stream": stream, "stop": ["\0never"]}
    body["messages"] = [{"role": "user", "content": "Go on"}]
    computed: list[int] = []
    slow = engine.decoder.step_rows

    def step_rows(token_ids: Any) -> Any:
        computed.append(1)
        threading.Event().wait(0.005)
        return slow(token_ids)

    engine.decoder.step_rows = step_rows  # type: ignore[method-assign]
    try:
        with httpx.Client(timeout=0.5) as http, contextlib.suppress(httpx.TimeoutException):
            request = http.build_request("POST", f"{url}/v1/chat/completions", json=body)
            lines = http.send(request, stream=stream).iter_lines()
            next(line for line in lines if len(computed) > 20)
        eventually(lambda: service._core.idle)
        assert 0 < len(computed) < 800
    finally:
        engine.decoder.step_rows = slow  # type: ignore[method-assign]
    eventually(lambda: not service._own._under_way)


def test_a_body_that_does_not_come(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request ends, in the API's form."""
    monkeypatch.setattr(api, "BODY_S", 0.2)

    def body() -> Iterator[bytes]:
        yield b"{"
        time.sleep(1.0)
        yield b"}"

    answered = httpx.post(f"{url}/v1/completions", content=body(), headers={"content-type": "application/json"})
    assert answered.status_code == 408
    assert "within" in answered.json()["error"]["message"]
