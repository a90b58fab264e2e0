"""The live page: its files, its stream, and what can be done from it.

Every request has passed the guards of `app.py`; this adds the login of browsers. It knows nothing of how a figure
comes about, and holds no state of the fleet.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import parse_qs

import anyio
import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from hub.broker_url import BrokerUrl
from hub.errors import LinkError
from hub.fleet import Standing
from hub.guesses import TooManyGuesses
from hub.http_guard import BodyRefused, is_of_own_page, of_another_page, read_body, without_key
from hub.web.app import TURNS_WITHIN_S, Pages
from hub.web.asking import Asking, Line, PageQuestion, TooMany
from hub.web.live import Live
from hub.web.login import HOLDS_S, Login
from hub.web.picture import View
from hub.web.present import Hub as Shown
from hub.web.present import Present
from hub.web.stream import Stream, Watching

STATIC: Final = Path(__file__).parent / "static"
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FORM_TYPE: Final = "application/x-www-form-urlencoded"
MOST_ASK_BYTES: Final = 64 * 1024
MOST_OTHER_BYTES: Final = 4096
BODY_S: Final = 10.0


class Hub(Shown, Protocol):
    """The hub that is shown, and what it does for its page."""

    def drain(self, node: str, *, on: bool) -> None:
        """Tell a node to take nothing new, or to take questions again."""
        ...


class Draining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request to drain a node, or to take it back."""

    on: bool


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the page, as it is sent."""

    content: bytes
    media_type: str
    etag: str


def live_page(
    hub: Hub,
    broker: str | BrokerUrl,
    live: Live,
    tokens: Sequence[str],
    wall_clock: Callable[[], float],
    rollouts: Callable[[], tuple[View, ...]] = tuple,
) -> Page:
    """The page of `hub`, which is at `broker` and is heard by `live`; `rollouts` are those that it shows."""
    stream = Stream(Present(hub, live, wall_clock, rollouts))
    return Page(hub, stream, Asking(broker, hub.name, live), Login(tokens), wall_clock)


class Page:
    """The page of one hub. `wall_clock` gives seconds since the epoch."""

    def __init__(self, hub: Hub, stream: Stream, asking: Asking, login: Login, wall_clock: Callable[[], float]) -> None:
        self._hub = hub
        self._stream = stream
        self._asking = asking
        self._login = login
        self._clock = wall_clock
        self._cookie = f"edge-hub-{hub.name}"  # cookies know no ports: two hubs on one host must not share one
        self._files = {path.name: _file(path) for path in sorted(STATIC.iterdir()) if path.suffix in TYPES}
        if login.is_needed:
            self._files["index.html"] = _with_log_out(self._files["index.html"])

    def pages(self) -> Pages:
        """What the application serves of it. Its files say nothing, so anybody may have them."""
        return Pages(
            routes=(
                Route("/", self.index),
                Route("/static/{name}", self.static),
                Route("/login", self.log_in, methods=["GET", "POST"]),
                Route("/logout", self.log_out, methods=["POST"]),
                Route("/events", self.events),
                Route("/ask", self.ask, methods=["POST"]),
                Route("/nodes/{name}/drain", self.drain, methods=["POST"]),
            ),
            open_paths=("/login", *(f"/static/{name}" for name in self._files)),
            admits=self.admits,
            refuse=self.refuse,
        )

    def close(self) -> None:
        """Let watchers and askers go; from any thread."""
        self._stream.close()
        self._asking.close()

    # --- who is let in ----------------------------------------------------------------------------------

    def admits(self, request: Request) -> bool:
        """Whether this browser has logged in."""
        return self._login.admits(request.cookies.get(self._cookie, ""), now_s=self._clock())

    def refuse(self, request: Request) -> Response:
        """A browser that opens the page is sent to log in, anything else is told what is missing."""
        return RedirectResponse("/login", 303) if request.url.path == "/" else without_key(request)

    async def log_in(self, request: Request) -> Response:
        """The form, or what comes of it."""
        if not self._login.is_needed:
            return RedirectResponse("/", 303)
        if request.method != "POST":
            return self._sent(request, "login.html")
        address = request.client.host if request.client is not None else ""
        try:
            cookie = self._login.cookie(await _token_of(request), address, now_s=self._clock())
        except TooManyGuesses:
            return RedirectResponse("/login#wait", 303)
        if cookie is None:
            return RedirectResponse("/login#wrong", 303)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            self._cookie,
            cookie,
            max_age=HOLDS_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """This browser forgets that it had logged in."""
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self._cookie, httponly=True, samesite="strict")
        return response

    # --- what is there to see ---------------------------------------------------------------------------

    async def index(self, request: Request) -> Response:
        """The page."""
        return self._sent(request, "index.html")

    async def static(self, request: Request) -> Response:
        """A file of it."""
        name = request.path_params["name"]
        return self._sent(request, name) if name in self._files else PlainTextResponse("no such file\n", 404)

    async def events(self, request: Request) -> ASGIApp:
        """What happens, from now on; not for another site's page, which would take somebody's place."""
        return Watching(self._stream) if is_of_own_page(request.headers) else of_another_page()

    def _sent(self, request: Request, name: str) -> Response:
        file = self._files[name]
        headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    # --- what can be done -------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Response:
        """A question, answered in lines of JSON as it is routed and answered."""
        try:
            body = await read_body(request, most_bytes=MOST_ASK_BYTES, limit_s=BODY_S)
            asked = msgspec.json.decode(body, type=PageQuestion)
            lines = self._asking.ask(asked)
        except BodyRefused as refused:
            return _refusal(refused.status, str(refused))
        except ClientDisconnect:
            return Response(status_code=400)
        except TooMany as error:
            return _refusal(429, str(error))
        except LinkError as error:
            return _refusal(503, str(error))
        except ValueError as error:  # also msgspec's
            return _refusal(400, f"this is no question: {error}")
        return StreamingResponse(_encoded(lines), media_type="application/x-ndjson")

    async def drain(self, request: Request) -> Response:
        """A node is told to take nothing new, or to take questions again. The stream shows when it does."""
        name = request.path_params["name"]
        try:
            body = await read_body(request, most_bytes=MOST_OTHER_BYTES, limit_s=BODY_S)
            on = msgspec.json.decode(body, type=Draining).on
        except BodyRefused as refused:
            return _refusal(refused.status, str(refused))
        except ClientDisconnect:
            return Response(status_code=400)
        except msgspec.DecodeError as error:
            return _refusal(400, f'{error}: send {{"on": true}} or {{"on": false}}')
        found = asyncio.wrap_future(self._hub.call(lambda core, now: core.fleet.get(name)))
        try:
            with anyio.fail_after(TURNS_WITHIN_S):
                node = await found
        except TimeoutError:
            return _refusal(
                503, f"this hub has said nothing for {TURNS_WITHIN_S:.0f} s: look at its log, and try again"
            )
        if node is None:
            return _refusal(404, "no such node is known to this hub")
        if node.standing in (Standing.LOST, Standing.GONE):
            return _refusal(409, f"node {name} is {node.standing.name.lower()}: it hears nothing now")
        if not self._hub.ready:
            return _refusal(503, "this hub has no connection to its broker now: try again when it has")
        self._hub.drain(name, on=on)
        return Response(status_code=202)


def _file(path: Path) -> File:
    return _made(path.read_bytes(), TYPES[path.suffix])


def _with_log_out(index: File) -> File:
    """The page of a hub with tokens has a way out."""
    hidden, shown = b'class="log-out" hidden', b'class="log-out"'
    assert hidden in index.content
    return _made(index.content.replace(hidden, shown), index.media_type)


def _made(content: bytes, media_type: str) -> File:
    return File(content=content, media_type=media_type, etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"')


async def _token_of(request: Request) -> str:
    """The token in the body of a form; of one that is too long, too slow or no form an empty one."""
    try:
        body = await read_body(request, most_bytes=MOST_OTHER_BYTES, limit_s=BODY_S, kind=FORM_TYPE)
        return parse_qs(body.decode("utf-8", "replace"), max_num_fields=8).get("token", [""])[0].strip()
    except (BodyRefused, ClientDisconnect, ValueError):
        return ""


async def _encoded(lines: AsyncIterator[Line]) -> AsyncIterator[bytes]:
    async for line in lines:
        yield msgspec.json.encode(line) + b"\n"


def _refusal(status: int, message: str) -> Response:
    return PlainTextResponse(message + "\n", status)
