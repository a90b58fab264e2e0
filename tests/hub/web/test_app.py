"""The hub over HTTP: whether it is well, and the guards around whatever pages there are."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hub.http_server import Address, HttpServer
from hub.web import app
from hub.web.app import Pages, application

KEY = "a-key-of-some-length"
EVERYWHERE = Address("0.0.0.0", 80)


class Still:
    """A hub that may be ready, and whose loop may turn."""

    ready = True
    turns = True

    def call(self, function: Callable[[Any, float], Any]) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        if self.turns:
            future.set_result(function(None, 0.0))
        return future


@pytest.fixture
def hub() -> Still:
    return Still()


@pytest.fixture
def serve(hub: Still) -> Iterator[Callable[..., str]]:
    """Serve the hub with these options; the URL."""
    servers: list[HttpServer] = []

    def start(exposition: Callable[[], bytes] = lambda: b"some_metric 1\n", **options: Any) -> str:
        servers.append(HttpServer(application(hub, exposition, **options), Address("127.0.0.1", 0)))
        servers[-1].start()
        return f"http://{servers[-1].address}"

    yield start
    for server in servers:
        server.stop()


def test_what_prometheus_scrapes(serve: Callable[..., str]) -> None:
    """With the content type of its text format."""
    answer = httpx.get(f"{serve()}/metrics")
    assert answer.text == "some_metric 1\n"
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"


def test_a_hub_whose_loop_stands_still_is_not_well(
    serve: Callable[..., str], hub: Still, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be connected all the same."""
    monkeypatch.setattr(app, "TURNS_WITHIN_S", 0.1)
    url = serve()
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    hub.turns = False
    assert httpx.get(f"{url}/healthz").status_code == 503
    assert httpx.get(f"{url}/readyz").status_code == 200


def test_a_hub_without_its_broker_is_not_ready(serve: Callable[..., str], hub: Still) -> None:
    """It lives, and waits."""
    url = serve()
    assert httpx.get(f"{url}/readyz").json() == {"status": "ready"}
    hub.ready = False
    assert httpx.get(f"{url}/readyz").status_code == 503
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_keys_are_asked_for_but_by_probes(serve: Callable[..., str]) -> None:
    """Whoever restarts a hub that is not well needs none, and learns nothing else."""
    url = serve(keys=(KEY,), address=EVERYWHERE)
    assert httpx.get(f"{url}/metrics").status_code == 401
    assert httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert [httpx.get(f"{url}/{path}").status_code for path in ("healthz", "readyz")] == [200, 200]


def test_every_page_stands_behind_the_guards(serve: Callable[..., str]) -> None:
    """Key, host, origin and headers are asked for and given whatever the route does; its own way in holds as well."""

    async def act(request: Request) -> Response:
        return PlainTextResponse("done")

    pages = Pages(
        routes=(Route("/act", act, methods=["GET", "POST"]), Route("/login", act)),
        open_paths=("/login",),
        admits=lambda request: request.cookies.get("session") == "mine",
        refuse=lambda request: PlainTextResponse("log in", 403),
    )
    url = serve(keys=(KEY,), address=EVERYWHERE, pages=pages)
    mine = {"Cookie": "session=mine"}
    assert httpx.post(f"{url}/act", headers=mine).text == "done"
    assert httpx.get(f"{url}/act").text == "log in"
    assert httpx.get(f"{url}/login").text == "done"
    assert httpx.post(f"{url}/act", headers={**mine, "Origin": "http://evil.example"}).status_code == 403
    assert "frame-ancestors 'none'" in httpx.get(f"{url}/act", headers=mine).headers["content-security-policy"]
    local = serve(pages=pages)
    assert httpx.get(f"{local}/act", headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(f"{local}/act").text == "done"


def test_a_scrape_that_fails_is_an_error_of_its_own(serve: Callable[..., str]) -> None:
    """The server goes on, and says nothing of what is inside."""

    def broken() -> bytes:
        raise ZeroDivisionError("secret")

    url = serve(broken)
    answer = httpx.get(f"{url}/metrics")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert httpx.get(f"{url}/healthz").status_code == 200
