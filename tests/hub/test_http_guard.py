"""Who is let in over HTTP, and what a page of somebody else cannot do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from hub.http_guard import (
    PAGE_HEADERS,
    BodyRefused,
    Keyed,
    Keys,
    PageHeaders,
    SameOrigin,
    allowed_hosts,
    read_body,
)
from hub.http_server import LOOPBACK, Address, HttpServer

KEYS = ("first-key-long-enough", "second-key-long-enough")


async def echo(request: Request) -> Response:
    """What came in the body; for a POST it has to be short JSON."""
    if request.method == "GET":
        return PlainTextResponse("hello")
    try:
        return PlainTextResponse(await read_body(request, most_bytes=10, limit_s=0.2))
    except BodyRefused as refused:
        return PlainTextResponse(str(refused), refused.status)


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start an application behind these guards; its URL."""
    servers: list[HttpServer] = []

    def start(*guards: Middleware) -> str:
        routes = [Route(path, echo, methods=["GET", "POST"]) for path in ("/", "/open")]
        servers.append(HttpServer(Starlette(routes=routes, middleware=guards), Address("127.0.0.1", 0)))
        servers[-1].start()
        return f"http://{servers[-1].address}"

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize(
    ("given", "let_in"),
    [
        (f"Bearer {KEYS[0]}", True),
        (f"bearer  {KEYS[1]}", True),
        (f"Basic {KEYS[0]}", False),
        (KEYS[0], False),
        (f"Bearer {KEYS[0]}x", False),
        (f"Bearer {KEYS[0][:-1]}", False),
        ("Bearer", False),
        ("", False),
    ],
)
def test_only_a_whole_key_lets_in(serve: Callable[..., str], given: str, let_in: bool) -> None:
    """As bearer token, and whichever of them; without it the answer says what is missing, open paths apart."""
    url = serve(Middleware(Keyed, Keys(KEYS), ["/open"]))
    answer = httpx.get(url, headers={"Authorization": given})
    assert answer.status_code == (200 if let_in else 401)
    assert let_in or answer.headers["www-authenticate"].startswith("Bearer")
    assert httpx.get(f"{url}/open").text == "hello"


def test_keys_are_not_guessed(serve: Callable[..., str]) -> None:
    """After a few wrong ones not even the right one is looked at for a while; what brings none is no guess."""
    url = serve(Middleware(Keyed, Keys(KEYS), ["/open"], lambda request: request.cookies.get("session") == "mine"))
    right = {"Authorization": f"Bearer {KEYS[0]}"}
    assert {httpx.get(url, headers=right).status_code for _ in range(10)} == {200}
    assert {httpx.get(url).status_code for _ in range(10)} == {401}
    wrong = [httpx.get(url, headers={"Authorization": f"Bearer {number}"}).status_code for number in range(6)]
    assert wrong == [401] * 5 + [429]
    refused = httpx.get(url, headers=right)
    assert (refused.status_code, 1 <= int(refused.headers["retry-after"]) <= 12) == (429, True)
    assert httpx.get(f"{url}/open").status_code == 200
    assert httpx.get(url, headers={"Cookie": "session=mine"}).status_code == 200


def test_without_keys_everybody_is_let_in(serve: Callable[..., str]) -> None:
    """That is for loopback; whoever listens elsewhere needs them."""
    assert httpx.get(serve(Middleware(Keyed, Keys(())))).text == "hello"


def test_a_page_may_have_its_own_way_in(serve: Callable[..., str]) -> None:
    """A cookie for instance, and a form to get it instead of an error."""

    def knows(request: Request) -> bool:
        return request.cookies.get("session") == "mine"

    url = serve(Middleware(Keyed, Keys(KEYS), ["/open"], knows, lambda request: RedirectResponse("/open", 303)))
    assert httpx.get(url, headers={"Cookie": "session=mine"}).text == "hello"
    assert httpx.get(url, headers={"Cookie": "session=other"}).headers["location"] == "/open"


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1", "[::1]:8080", "LOCALHOST"])
def test_this_machine_is_asked_by_its_own_names(serve: Callable[..., str], host: str) -> None:
    """On loopback, where no key keeps others out."""
    url = serve(Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts((), LOOPBACK)))
    assert httpx.get(url, headers={"Host": host}).status_code == 200


def test_where_it_listens_is_a_name_of_this_machine(serve: Callable[..., str]) -> None:
    """All of 127.0.0.0/8 is this machine, but only one of it is where it was told to listen."""
    address = Address("127.0.0.2", 80)
    url = serve(Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts((), address)))
    hosts = ("127.0.0.2:80", "127.0.0.1:80", "127.0.0.3:80", "evil.example")
    assert [httpx.get(url, headers={"Host": host}).status_code for host in hosts] == [200, 200, 400, 400]
    for sent in ((KEYS, address), ((), Address("192.0.2.1", 80))):
        assert allowed_hosts(*sent) == ["*"]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "evil@localhost", ""]
)
def test_a_name_that_points_here_is_no_name_of_ours(serve: Callable[..., str], host: str) -> None:
    """Nothing is told to a page whose host name was made to mean this machine (DNS rebinding)."""
    url = serve(Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts((), LOOPBACK)))
    assert httpx.get(url, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # another port of this machine
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://{host}"}, 403),
        ({"Origin": "http://{host}"}, 200),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://{host}.evil.example"}, 403),
    ],
)
def test_pages_of_others_change_nothing(serve: Callable[..., str], headers: dict[str, str], status: int) -> None:
    """They may look, where the browser lets them, and not act."""
    url = serve(Middleware(SameOrigin))
    host = url.removeprefix("http://")
    sent = {name: value.format(host=host) for name, value in headers.items()}
    assert httpx.post(url, json=1, headers=sent).status_code == status
    assert httpx.get(url, headers=sent).status_code == 200


def test_a_page_keeps_to_itself(serve: Callable[..., str]) -> None:
    """Every response says so, errors and those of missing pages too."""
    url = serve(Middleware(PageHeaders), Middleware(Keyed, Keys(KEYS), ["/open", "/missing"]))
    for path, status in (("/open", 200), ("/missing", 404), ("/", 401)):
        answer = httpx.get(url + path)
        assert answer.status_code == status
        assert {name: answer.headers.get(name) for name in PAGE_HEADERS} == PAGE_HEADERS
        assert answer.headers["cache-control"] == "no-store"
        assert "unsafe" not in answer.headers["content-security-policy"]


def test_bodies_are_json_short_and_in_time(serve: Callable[..., str]) -> None:
    """Anything else is refused with its status."""
    url = serve()
    json_type = {"Content-Type": "application/json; charset=utf-8"}

    def slow() -> Iterator[bytes]:
        yield b"{"
        time.sleep(1.0)
        yield b"}"

    def status(content: Any, headers: dict[str, str] = json_type) -> int:
        return httpx.post(url, content=content, headers=headers).status_code

    assert httpx.post(url, content=b'"1234567"', headers=json_type).text == '"1234567"'
    assert status(b'"123456789"') == 413
    assert status(b"{}", {"Content-Type": "text/plain"}) == 415
    assert status(b"{}", {}) == 415
    assert status(slow()) == 408
