"""The page over HTTP: who gets in, what is refused, and what is done."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from hub.fleet import Standing
from hub.http_server import Address, HttpServer
from hub.web import page
from hub.web.app import application
from hub.web.asking import Asking, Line, PageQuestion
from hub.web.login import Login
from hub.web.page import MOST_ASK_BYTES, STATIC, TYPES, Page
from hub.web.stream import Stream
from tests.hub.core_driver import proven
from tests.hub.web.test_present import Watched

TOKEN = "a-token-of-some-length"
JSON = {"Content-Type": "application/json"}
DRAIN = b'{"on": true}'


class Drained(Watched):
    """Notes who was to be drained."""

    def __init__(self) -> None:
        super().__init__(proven("a", "b"))
        self.drained: list[tuple[str, bool]] = []

    def drain(self, node: str, *, on: bool) -> None:
        self.drained.append((node, on))


class Still(Asking):
    """Answers every question with itself, without a broker."""

    def ask(self, asked: PageQuestion) -> Any:
        async def lines() -> Any:
            yield Line(kind="answer", shown=asked.question)

        return lines()


class Slow:
    """A source of which nothing ever comes."""

    def begin(self) -> None:
        return

    async def advance(self) -> dict[str, Any]:
        return {}

    def whole(self) -> dict[str, Any]:
        return {"all": True}


@pytest.fixture
def hub() -> Drained:
    return Drained()


@pytest.fixture
def serve(hub: Drained) -> Iterator[Callable[..., str]]:
    """Serve the page with these tokens; the URL."""
    ends: list[Callable[[], None]] = []

    def start(*tokens: str, most_watchers: int = 2) -> str:
        stream = Stream(Slow(), every_s=0.01, most_watchers=most_watchers)
        page = Page(hub, stream, Still("mqtt://h", "h", hub.live), Login(tokens), lambda: 1_000_000.0)
        app = application(hub, lambda: b"", keys=tokens, pages=page.pages())
        server = HttpServer(app, Address("127.0.0.1", 0))
        server.start()
        ends.extend((page.close, server.stop))
        return f"http://{server.address}"

    yield start
    for end in ends:
        end()


# --- its files ------------------------------------------------------------------------------------------


def test_every_file_is_served_and_the_browser_may_keep_it(serve: Callable[..., str]) -> None:
    """With its type; asked for again it is not sent again, and nothing else of the disk is served."""
    url = serve()
    assert httpx.get(f"{url}/").text.startswith("<!doctype html>")
    for path in STATIC.iterdir():
        answer = httpx.get(f"{url}/static/{path.name}")
        assert answer.status_code == (200 if path.suffix in TYPES else 404), path.name
        if path.suffix in TYPES:
            assert answer.headers["content-type"].startswith(TYPES[path.suffix])
            again = httpx.get(f"{url}/static/{path.name}", headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(f"{url}/static/..%2fpage.py").status_code == 404
    assert httpx.get(f"{url}/static/nothing.js").status_code == 404


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.html")), ids=lambda path: path.name)
def test_no_page_has_script_or_style_inside(path: Path) -> None:
    """The content security policy would refuse it; all comes from files of this server."""
    text = path.read_text("utf-8")
    for forbidden in ("style=", "<style", "onclick", "onload", "javascript:", "http://", "https://", "<script>"):
        assert forbidden not in text


@pytest.mark.parametrize("path", sorted(STATIC.glob("[!u]*.js")), ids=lambda path: path.name)
def test_no_script_makes_markup_of_text(path: Path) -> None:
    """What nodes, devices and askers say is put there as text, and nothing is evaluated."""
    text = path.read_text("utf-8")
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert forbidden not in text


# --- who gets in ----------------------------------------------------------------------------------------


def test_without_tokens_there_is_nothing_to_log_in_to(serve: Callable[..., str]) -> None:
    """Nor out of."""
    url = serve()
    assert httpx.get(f"{url}/login").headers["location"] == "/"
    assert b'class="log-out" hidden' in httpx.get(f"{url}/").content


def test_a_browser_logs_in_and_out(serve: Callable[..., str]) -> None:
    """By a form, for a cookie that no script can read and that no other site's page sends."""
    url = serve(TOKEN)
    assert httpx.get(f"{url}/").headers["location"] == "/login"
    assert httpx.get(f"{url}/events").status_code == 401
    assert httpx.get(f"{url}/login").status_code == 200
    assert httpx.get(f"{url}/static/page.css").status_code == 200
    wrong = httpx.post(f"{url}/login", data={"token": "wrong"})
    assert (wrong.headers["location"], "set-cookie" in wrong.headers) == ("/login#wrong", False)
    right = httpx.post(f"{url}/login", data={"token": TOKEN})
    made = right.headers["set-cookie"]
    assert all(part in made for part in ("HttpOnly", "SameSite=strict", "Max-Age=", "Path=/"))
    assert TOKEN not in made
    mine = {"Cookie": made.split(";")[0]}
    page = httpx.get(f"{url}/", headers=mine)
    assert b'class="log-out"' in page.content
    assert b'class="log-out" hidden' not in page.content
    out = httpx.post(f"{url}/logout", headers=mine)
    assert 'edge-hub-hub-1=""; ' in out.headers["set-cookie"]


def test_a_token_is_also_taken_as_bearer(serve: Callable[..., str]) -> None:
    """By what is no browser."""
    url = serve(TOKEN)
    assert httpx.get(f"{url}/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert httpx.get(f"{url}/", headers={"Cookie": f"edge-hub-hub-1={TOKEN}"}).status_code == 303


def test_guessing_is_stopped(serve: Callable[..., str]) -> None:
    """Then not even the right token is looked at."""
    url = serve(TOKEN)
    places = [httpx.post(f"{url}/login", data={"token": f"wrong {n}"}).headers["location"] for n in range(6)]
    assert places == ["/login#wrong"] * 5 + ["/login#wait"]
    assert httpx.post(f"{url}/login", data={"token": TOKEN}).headers["location"] == "/login#wait"


@pytest.mark.parametrize("body", [b"", b"token=" + b"x" * 10_000, b"\xff\xfe=%ff", b"&".join([b"a=b"] * 100)])
def test_a_form_that_is_none_logs_nobody_in(serve: Callable[..., str], body: bytes) -> None:
    """And is no error of the server's."""
    url = serve(TOKEN)
    answer = httpx.post(f"{url}/login", content=body)
    assert answer.headers["location"] == "/login#wrong"


# --- what a page of somebody else may not do ------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ask", "/nodes/a/drain", "/login", "/logout"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:1"},
    ],
    ids=str,
)
def test_nothing_is_done_for_another_sites_page(
    serve: Callable[..., str], hub: Drained, path: str, headers: dict[str, str]
) -> None:
    """Whatever it sends, in a browser that may be logged in."""
    answer = httpx.post(f"{serve()}{path}", content=DRAIN, headers={**JSON, **headers})
    assert answer.status_code == 403
    assert hub.drained == []


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}], ids=str)
def test_another_sites_page_takes_no_watchers_place(serve: Callable[..., str], headers: dict[str, str]) -> None:
    """It could not read what it is sent, but keep others from watching."""
    url = serve(most_watchers=1)
    with httpx.stream("GET", f"{url}/events", headers=headers) as refused:
        assert refused.status_code == 403
        with httpx.stream("GET", f"{url}/events", headers={"Sec-Fetch-Site": "same-origin"}) as taken:
            assert taken.status_code == 200


@pytest.mark.parametrize("path", ["/", "/events", "/ask", "/nodes/a/drain"])
def test_a_name_that_was_let_point_here_gets_nothing(serve: Callable[..., str], hub: Drained, path: str) -> None:
    """DNS rebinding: the browser believes to be at evil.example, and the request is for that host."""
    method = "POST" if "ask" in path or "drain" in path else "GET"
    answer = httpx.request(method, f"{serve()}{path}", content=DRAIN, headers={**JSON, "Host": "evil.example"})
    assert answer.status_code == 400
    assert hub.drained == []


def test_a_form_of_another_type_does_nothing(serve: Callable[..., str], hub: Drained) -> None:
    """A page may send those anywhere without asking."""
    url = serve()
    for path in ("/ask", "/nodes/a/drain"):
        assert httpx.post(f"{url}{path}", content=DRAIN, headers={"Content-Type": "text/plain"}).status_code == 415
    assert httpx.get(f"{url}/nodes/a/drain").status_code == 405
    assert hub.drained == []


# --- what can be done -----------------------------------------------------------------------------------


def test_a_node_is_drained_and_taken_back(serve: Callable[..., str], hub: Drained) -> None:
    """It is told, and the stream shows when it obeys."""
    url = serve()
    for on in (True, False):
        assert httpx.post(f"{url}/nodes/a/drain", json={"on": on}).status_code == 202
    assert hub.drained == [("a", True), ("a", False)]


def test_only_a_node_that_hears_it_can_be_drained(serve: Callable[..., str], hub: Drained) -> None:
    """The answer says what is wrong, and nothing is sent."""
    url = serve()
    assert httpx.post(f"{url}/nodes/other/drain", json={"on": True}).status_code == 404
    hub.driver.state("b", status="offline")
    node = hub.driver.core.fleet.get("b")
    assert node is not None
    assert node.standing == Standing.LOST
    lost = httpx.post(f"{url}/nodes/b/drain", json={"on": True})
    assert (lost.status_code, "lost" in lost.text) == (409, True)
    for body in ({}, {"on": "yes"}, {"on": True, "force": True}, []):
        assert httpx.post(f"{url}/nodes/a/drain", json=body).status_code == 400
    hub.ready = False
    assert httpx.post(f"{url}/nodes/a/drain", json={"on": True}).status_code == 503
    assert hub.drained == []


def test_a_hub_whose_loop_stands_still_drains_nobody(
    serve: Callable[..., str], hub: Drained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks it to is told so after a while."""
    monkeypatch.setattr(page, "TURNS_WITHIN_S", 0.1)
    hub.turns = False
    answer = httpx.post(f"{serve()}/nodes/a/drain", json={"on": True})
    assert (answer.status_code, hub.drained) == (503, [])


def test_a_question_is_answered_in_lines(serve: Callable[..., str]) -> None:
    """Of JSON, one each."""
    answer = httpx.post(f"{serve()}/ask", json={"question": "why?"})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line) for line in answer.text.splitlines()] == [{"kind": "answer", "shown": "why?"}]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"question": ""}', 400),
        (b'{"question": "x", "device": "kitchen"}', 400),
        (b'{"question": "x", "max_tokens": 0}', 400),
        (b'{"question": "' + b"x" * 20_000 + b'"}', 400),
        (b'{"question": "' + b"x" * MOST_ASK_BYTES + b'"}', 413),
    ],
    ids=lambda value: str(value)[:32],
)
def test_what_is_no_question_is_refused(serve: Callable[..., str], body: bytes, status: int) -> None:
    """With a line that says why."""
    answer = httpx.post(f"{serve()}/ask", content=body, headers=JSON)
    assert answer.status_code == status
    assert answer.text.strip()


def test_watchers_are_few_and_leave_their_places(serve: Callable[..., str], eventually: Callable[..., None]) -> None:
    """One too many is told so; when somebody leaves there is room again."""
    url = serve(most_watchers=2)
    first, second = (httpx.stream("GET", f"{url}/events") for _ in range(2))
    with first as one:
        lines = one.iter_lines()
        assert next(lines).startswith("retry:")
        with second as two:
            others = two.iter_lines()
            assert next(others).startswith("retry:")
            assert httpx.get(f"{url}/events").status_code == 503

        def room() -> bool:
            with httpx.stream("GET", f"{url}/events") as again:
                return again.status_code == 200

        eventually(room)


def test_who_watches_does_not_hold_up_the_end(hub: Drained) -> None:
    """The stream ends as soon as the page is closed."""
    page = Page(hub, Stream(Slow(), every_s=0.01), Still("mqtt://h", "h", hub.live), Login(()), lambda: 0.0)
    server = HttpServer(application(hub, lambda: b"", pages=page.pages()), Address("127.0.0.1", 0))
    server.start()
    ended = threading.Event()

    def watch() -> None:
        with httpx.stream("GET", f"http://{server.address}/events") as events:
            for line in events.iter_lines():
                if line.startswith("event: whole"):
                    page.close()
        ended.set()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    assert ended.wait(10)
    watching.join(10)
    server.stop()
