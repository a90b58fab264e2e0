"""Who may ask over HTTP, and what may a page of ours do in a browser?

Keys and guesses at them, names of this machine, the origin of requests that change something, and the headers that
keep a page to itself. All of it is ASGI around an application; knows nothing of what is served, and holds up no stream.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Collection, Sequence
from typing import Final
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.guesses import Guesses, TooManyGuesses
from hub.http_server import Address

_LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]", "::1")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

# A page loads what this server has, talks to this server alone, and stands in nobody's frame.
PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def allowed_hosts(keys: Sequence[str], address: Address) -> list[str]:
    """The names by which a request may call the server at `address`, for Starlette's TrustedHostMiddleware.

    On loopback without keys only this machine's own: else any web page in a browser of this machine could ask, through
    a name of its own that it lets point here (DNS rebinding). Whoever has a key has it under no other name.

    >>> allowed_hosts([], Address("127.0.0.2", 80)), allowed_hosts(["a-key"], Address("127.0.0.2", 80))
    (['localhost', '127.0.0.1', '[::1]', '::1', '127.0.0.2'], ['*'])
    """
    return list(dict.fromkeys((*_LOOPBACK_HOSTS, address.host))) if address.on_loopback and not keys else ["*"]


class Keys:
    """The keys that let a request in; without any, every request is let in. Wrong ones are counted as guesses."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]
        self._guesses = Guesses()

    def hold(self, given: str) -> bool:
        """Whether it is one of them; how long that takes does not tell how much of it is right."""
        return any(hmac.compare_digest(given.encode(), key) for key in self._keys)

    def let_in(self, request: HTTPConnection) -> bool:
        """Whether the request brings one as its bearer token (RFC 6750), or none is needed. Raises TooManyGuesses."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if not self._keys or scheme.lower() != "bearer" or not given.strip():
            return not self._keys
        address = request.client.host if request.client is not None else ""
        now_s = asyncio.get_running_loop().time()
        return self._guesses.told(address, right=self.hold(given.strip()), now_s=now_s)


def without_key(request: Request) -> Response:
    """Says what is missing."""
    text = "no valid key: send one as bearer token\n"
    return PlainTextResponse(text, 401, headers={"WWW-Authenticate": 'Bearer realm="edgefleet"'})


def too_often(error: TooManyGuesses) -> Response:
    """Says how long to wait."""
    return PlainTextResponse(f"{error}\n", 429, headers={"Retry-After": str(error.wait_s)})


def nobody_else(request: Request) -> bool:
    """Nobody gets in without a key."""
    return False


class Keyed:
    """Lets requests in that bring a key, that `admits` knows, or whose path anybody may see.

    What is not let in gets the response of `refuse`.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        open_paths: Collection[str] = (),
        admits: Callable[[Request], bool] = nobody_else,
        refuse: Callable[[Request], Response] = without_key,
    ) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)
        self._admits = admits
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        await self._for(request)(scope, receive, send)

    def _for(self, request: Request) -> ASGIApp:
        if request.scope["path"] in self._open_paths or self._admits(request):
            return self._app
        try:
            return self._app if self._keys.let_in(request) else self._refuse(request)
        except TooManyGuesses as error:
            return too_often(error)


class SameOrigin:
    """Refuses requests that could change something and that a page of somebody else sent, in whoever's browser.

    The browser says so: by Sec-Fetch-Site, older ones by Origin, which must then be the host that is asked. What says
    neither is no browser. (https://words.filippo.io/csrf, as in Go's net/http.CrossOriginProtection.) So GET must
    change nothing, ever; one that holds something asks `is_of_own_page` itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["method"] in _SAFE_METHODS or is_of_own_page(Headers(scope=scope)):
            await self._app(scope, receive, send)
        else:
            await of_another_page()(scope, receive, send)


def is_of_own_page(headers: Headers) -> bool:
    """Whether a request comes from a page of this server, or from no page."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def of_another_page() -> Response:
    """Refuses what `is_of_own_page` is not true of."""
    return PlainTextResponse("this request comes from another site's page: use this server's own\n", 403)


class PageHeaders:
    """Adds `PAGE_HEADERS` to every response that has not its own, and lets nobody keep a copy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in PAGE_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers)


class BodyRefused(Exception):
    """A request's body is not taken; `status` is for its response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read_body(request: Request, *, most_bytes: int, limit_s: float, kind: str = "application/json") -> bytes:
    """The body of a request. Raises BodyRefused where it is too long or too slow, or of another type by its account.

    A web page may send other types than JSON anywhere without being asked for leave.
    """
    given = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if given != kind:
        raise BodyRefused(415, f"Content-Type is {given or 'missing'}: send {kind}")
    try:
        with anyio.fail_after(limit_s):
            return await _read(request, most_bytes)
    except TimeoutError:
        raise BodyRefused(408, f"the body did not come within {limit_s:.0f} s") from None


async def _read(request: Request, most_bytes: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most_bytes:
            raise BodyRefused(413, f"the body is longer than {most_bytes} bytes")
    return bytes(body)
