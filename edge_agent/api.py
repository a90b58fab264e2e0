"""The HTTP server's application: the OpenAI API over this node's bundles, and whether the node is well.

Each request becomes a question that is asked here; what comes back goes out as one object or as server-sent events.
Knows nothing of sockets, of how an answer is made, or of who else asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from edge_agent import openai_form as form
from edge_agent.events import Refusal, Told
from edge_agent.openai_form import ApiError
from hub import wire
from hub.guesses import TooManyGuesses
from hub.http_guard import BodyRefused, Keys, allowed_hosts, read_body
from hub.http_server import LOOPBACK, Address

log = logging.getLogger(__name__)

MOST_BODY_BYTES: Final = 4_000_000
BODY_S: Final = 30.0  # for a body to come in
MOST_INPUTS: Final = 256  # texts in one request for embeddings


class Here(Protocol):
    """The node that answers; every method may be called from any thread."""

    @property
    def served(self) -> Sequence[wire.ServedBundle]:
        """What can be asked."""
        ...

    @property
    def offers(self) -> Sequence[wire.Offer]:
        """What other nodes offer."""
        ...

    @property
    def fleet_in_reach(self) -> bool:
        """Whether the fleet can be asked for what is not served here."""
        ...

    @property
    def ready(self) -> bool:
        """Whether questions are answered now."""
        ...

    def metrics(self) -> bytes:
        """Prometheus' text."""
        ...

    def ask(self, question: wire.Question, bundle: str | None, tell: Callable[[Told], None]) -> Callable[[], None]:
        """Ask, where `bundle` is None the fleet; `tell` is called from another thread.

        What is returned withdraws the question.
        """
        ...


def application(here: Here, *, keys: Sequence[str] = (), address: Address = LOOPBACK) -> Starlette:
    """The application of a server at `address`. With `keys`, each request needs one of them as its bearer token."""
    api = _Api(here, Keys(keys))
    routes = [
        Route("/v1/models", api.guarded(api.list_models)),
        Route("/v1/models/{model:path}", api.guarded(api.show_model)),
        Route("/v1/chat/completions", api.guarded(api.chat), methods=["POST"]),
        Route("/v1/completions", api.guarded(api.complete), methods=["POST"]),
        Route("/v1/embeddings", api.guarded(api.embed), methods=["POST"]),
        Route("/metrics", api.guarded(api.metrics)),
        Route("/healthz", api.healthz),
        Route("/readyz", api.readyz),
    ]
    hosts = allowed_hosts(keys, address)
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


class _Api:
    def __init__(self, here: Here, keys: Keys) -> None:
        self._here = here
        self._keys = keys

    def guarded(self, handle: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """`handle`, for those who have a key, its errors in the API's form."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_key(request)
                response: Response = await handle(request)
            except ApiError as error:
                return _json(error.body, error.status)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception:  # a bug must fail this request in the API's form, and say so in the log
                log.exception("%s %s failed", request.method, request.url.path)
                return _json(form.api_error(Refusal("internal", "this request failed: see the node's log")).body, 500)
            return response

        return guarded

    # --- what can be asked ------------------------------------------------------------------------------

    async def list_models(self, request: Request) -> Response:
        return _json({"object": "list", "data": self._models()})

    async def show_model(self, request: Request) -> Response:
        wanted = request.path_params["model"]
        for model in self._models():
            if model["id"] == wanted:
                return _json(model)
        raise self._unknown(wanted)

    async def chat(self, request: Request) -> Response:
        return await self._generate(request, form.ChatRequest)

    async def complete(self, request: Request) -> Response:
        return await self._generate(request, form.CompletionRequest)

    async def embed(self, request: Request) -> Response:
        asked: form.EmbeddingRequest = form.decode_request(await _body(request), form.EmbeddingRequest)
        if asked.dimensions is not None:
            raise form.invalid("dimensions is not supported here: leave it out", "dimensions")
        texts = (asked.input,) if isinstance(asked.input, str) else asked.input
        if not 0 < len(texts) <= MOST_INPUTS:
            raise form.invalid(f"{len(texts)} inputs in one request: send 1 to {MOST_INPUTS}", "input")
        bundle = self._bundle(asked.model, "feature-extraction")
        questions = []
        for text in texts:
            if not text.strip():
                raise form.invalid("an input is empty", "input")
            questions.append(wire.Question(text=text, task="feature-extraction", model=asked.model))
        answers = [await self._whole(request, question, bundle) for question in questions]
        return _json(form.embeddings(asked, answers))

    # --- whether it is well -----------------------------------------------------------------------------

    async def metrics(self, request: Request) -> Response:
        return Response(self._here.metrics(), media_type="text/plain; version=1.0.0; charset=utf-8")

    async def healthz(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        ready = self._here.ready
        return _json({"status": "ready" if ready else "draining"}, 200 if ready else 503)

    # --- inside -----------------------------------------------------------------------------------------

    def _check_key(self, request: Request) -> None:
        try:
            if self._keys.let_in(request):
                return
        except TooManyGuesses as error:
            raise ApiError(429, str(error), kind="requests", code="rate_limit_exceeded") from None
        raise ApiError(
            401, "no valid API key: send one as bearer token", kind="invalid_request_error", code="invalid_api_key"
        )

    def _models(self) -> list[dict[str, Any]]:
        return form.models([*self._here.served, *self._here.offers])

    def _bundle(self, model: str, task: str) -> str | None:
        """The bundle of this node that is asked for; None where it is the fleet's. Raises ApiError for neither's."""
        found = [one for one in self._here.served if model in (one.bundle, one.model)]
        if not found:
            if self._here.fleet_in_reach:
                return None
            raise self._unknown(model)
        fit = [one.bundle for one in found if one.task == task]
        if not fit:
            raise form.invalid(f"{model} does {found[0].task}, not {task}", "model")
        return fit[0]

    def _unknown(self, model: str) -> ApiError:
        known = ", ".join(one["id"] for one in self._models())
        return ApiError(
            404, f"model {model!r} is not served here: choose one of {known}",
            kind="invalid_request_error", code="model_not_found", param="model",
        )  # fmt: skip

    async def _generate(self, request: Request, kind: type[Any]) -> Response:
        asked = form.decode_request(await _body(request), kind)
        bundle = self._bundle(asked.model, "text-generation")
        question = msgspec.structs.replace(form.question_of(asked), task="text-generation", model=asked.model)
        chat = kind is form.ChatRequest
        frame = form.Frame(
            id=f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            model=asked.model,
            created=int(time.time()),
            chat=chat,
        )
        if not asked.stream:
            return _json(frame.whole(await self._whole(request, question, bundle)))
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        telling = _Telling(self._here, question, bundle)
        try:
            first = await _unless_gone(request, telling)  # what is refused is refused with a status, not in a stream
        except BaseException:
            telling.withdraw()
            raise
        if isinstance(first, Refusal):
            raise form.api_error(first)
        events = _events(telling, first, frame, with_usage=with_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _whole(self, request: Request, question: wire.Question, bundle: str | None) -> wire.Answer:
        """The answer, unless the client goes away before. Raises ApiError, ClientDisconnect."""
        telling = _Telling(self._here, question, bundle)
        try:
            outcome = await _unless_gone(request, telling)  # not streamed: nothing is told before it
        finally:
            telling.withdraw()
        if isinstance(outcome, wire.Answer):
            return outcome
        assert isinstance(outcome, Refusal)
        raise form.api_error(outcome)


class _Telling:
    """What is told of one question, brought into this event loop."""

    def __init__(self, here: Here, question: wire.Question, bundle: str | None) -> None:
        loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Told] = asyncio.Queue()
        self._ended = False

        def tell(told: Told) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
                loop.call_soon_threadsafe(self._queue.put_nowait, told)

        self._withdraw = here.ask(question, bundle, tell)

    async def next(self) -> Told:
        """The next that is told; the outcome is the last."""
        told = await self._queue.get()
        self._ended = not isinstance(told, str)
        return told

    def withdraw(self) -> None:
        """Nobody waits any more."""
        if not self._ended:
            self._ended = True
            self._withdraw()


async def _events(telling: _Telling, told: Told, frame: form.Frame, *, with_usage: bool) -> AsyncIterator[bytes]:
    """An answer as server-sent events. When the client goes away, this is cancelled and the question withdrawn."""
    try:
        if (head := frame.first()) is not None:
            yield _event(head)
        while isinstance(told, str):
            yield _event(frame.piece(told))
            told = await telling.next()
        if isinstance(told, Refusal):
            yield _event(form.api_error(told).body)
            return
        yield _event(frame.last(told))
        if with_usage:
            yield _event(frame.usage(told))
        yield b"data: [DONE]\n\n"
    finally:
        telling.withdraw()


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


def _json(document: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")


async def _body(request: Request) -> bytes:
    """The body of a JSON request. Raises ApiError."""
    try:
        return await read_body(request, most_bytes=MOST_BODY_BYTES, limit_s=BODY_S)
    except BodyRefused as refused:
        raise ApiError(refused.status, str(refused), kind="invalid_request_error") from None


async def _unless_gone(request: Request, telling: _Telling) -> Told:
    """The next that is told. Raises ClientDisconnect if the client goes away before."""
    told, gone = asyncio.ensure_future(telling.next()), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((told, gone), return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            raise ClientDisconnect
        return told.result()
    finally:
        told.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Returns when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
