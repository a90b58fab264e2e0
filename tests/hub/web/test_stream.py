"""Server-sent events: to all who watch, from one computation, and to nobody at the cost of others."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from hub.web import stream
from hub.web.stream import MOST_BEHIND, Stream, Watching


class Counting:
    """Shows how often it was asked."""

    def __init__(self) -> None:
        self.count = 0
        self.begun = 0
        self.breaks = False

    def begin(self) -> None:
        self.begun += 1

    async def advance(self) -> dict[str, Any]:
        if self.breaks:
            raise ZeroDivisionError
        await asyncio.sleep(0)
        self.count += 1
        return {"count": self.count}

    def whole(self) -> dict[str, Any]:
        return {"all": self.count}


class Stage:
    """A stream whose seconds pass when the test says so."""

    def __init__(self, **options: Any) -> None:
        self.source = Counting()
        self._seconds: asyncio.Queue[None] = asyncio.Queue()
        self._waiting = 0
        self.stream = Stream(self.source, pause=self._pause, **options)

    async def _pause(self, seconds: float) -> None:
        self._waiting += 1
        await self._seconds.get()
        self._waiting -= 1

    async def second(self) -> None:
        """Let one second pass, and all that comes of it happen."""
        await self.idle()
        self._seconds.put_nowait(None)
        await asyncio.sleep(0)
        await self.idle()

    async def idle(self) -> None:
        while not self._waiting:
            await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def watcher(self) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        with self.stream.place() as has_place:
            assert has_place
            async with contextlib.aclosing(self.stream.events()) as events:
                yield events


def told(event: bytes) -> tuple[str, dict[str, Any]]:
    """The kind of an event and its document."""
    fields = dict(line.split(": ", 1) for line in event.decode().strip().splitlines() if line)
    return fields["event"], json.loads(fields["data"])


def played(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 10))  # type: ignore[arg-type]


def test_everything_first_then_each_change_once() -> None:
    """However many watch, the source is asked once a second; one that comes later begins with everything."""

    async def scene() -> None:
        stage = Stage()
        async with stage.watcher() as first:
            assert told(await anext(first)) == ("whole", {"all": 1})
            await stage.second()
            async with stage.watcher() as second:
                assert told(await anext(second)) == ("whole", {"all": 2})
                await stage.second()
                assert [told(await anext(first)) for _ in range(2)] == [("change", {"count": n}) for n in (2, 3)]
                assert told(await anext(second)) == ("change", {"count": 3})

    played(scene)


def test_nothing_is_computed_when_nobody_watches() -> None:
    """Neither before the first nor after the last; and the next one is shown the present, not the past."""

    async def scene() -> None:
        stage = Stage()
        await asyncio.sleep(0)
        assert stage.source.count == 0
        async with stage.watcher() as events:
            await anext(events)
        await asyncio.sleep(0)
        assert (stage.stream._places, stage.source.count) == (0, 1)
        stage._waiting = 0
        async with stage.watcher() as events:
            assert told(await anext(events)) == ("whole", {"all": 2})
            async with stage.watcher() as others:
                await anext(others)
        assert stage.source.begun == 2

    played(scene)


def test_places_are_few() -> None:
    """One who leaves makes room."""

    async def scene() -> None:
        stage = Stage(most_watchers=2)
        with stage.stream.place(), stage.stream.place() as second, stage.stream.place() as third:
            assert (second, third) == (True, False)
        with stage.stream.place() as again:
            assert again

    played(scene)


def test_who_does_not_keep_up_is_let_go() -> None:
    """After a few events, with what waited thrown away; the others go on."""

    async def scene() -> None:
        stage = Stage()
        async with stage.watcher() as slow, stage.watcher() as quick:
            await anext(slow)
            await anext(quick)
            for _ in range(MOST_BEHIND + 1):
                await stage.second()
                await anext(quick)
            assert [event async for event in slow] == []
            await stage.second()
            assert told(await anext(quick))[0] == "change"

    played(scene)


def test_a_second_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The stream goes on, and the log says so."""

    async def scene() -> None:
        stage = Stage()
        async with stage.watcher() as events:
            await anext(events)
            stage.source.breaks = True
            await stage.second()
            stage.source.breaks = False
            await stage.second()
            assert told(await anext(events)) == ("change", {"count": 2})

    played(scene)
    assert "cannot be shown" in caplog.text


def test_closing_lets_all_go() -> None:
    """And nobody in again."""

    async def scene() -> None:
        stage = Stage()
        async with stage.watcher() as events:
            await anext(events)
            stage.stream.close()
            assert [event async for event in events] == []
        with stage.stream.place() as has_place:
            assert not has_place

    played(scene)


# --- as a response --------------------------------------------------------------------------------------


class Client:
    """The other end of a response; it may read nothing, and it may go away."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, part: Any) -> None:
        await self.reads.wait()
        self.parts.append(part)

    async def got(self, parts: int) -> None:
        while len(self.parts) < parts:
            await asyncio.sleep(0)


def test_a_client_that_goes_away_ends_its_response() -> None:
    """And leaves its place."""

    async def scene() -> None:
        stage, client = Stage(), Client()
        response = asyncio.ensure_future(Watching(stage.stream)({"type": "http"}, client.receive, client.send))
        await client.got(2)
        assert client.parts[0]["headers"][0] == (b"content-type", b"text/event-stream; charset=utf-8")
        client.gone.set()
        await response
        assert stage.stream._places == 0

    played(scene)


@pytest.mark.parametrize("turns", range(6))
def test_a_client_that_goes_away_while_it_is_sent_something_ends_its_response(turns: int) -> None:
    """A server wakes who sends and who receives together when a connection is lost; none of both may be forgotten."""

    async def scene() -> None:
        stage, client = Stage(), Client()
        response = asyncio.ensure_future(Watching(stage.stream)({"type": "http"}, client.receive, client.send))
        await client.got(2)
        client.reads.clear()
        await stage.second()
        client.reads.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        client.gone.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert response.done()
        assert stage.stream._places == 0

    played(scene)


def test_a_client_that_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its response ends, though it is still there."""
    monkeypatch.setattr(stream, "TAKES_WITHIN_S", 0.01)

    async def scene() -> None:
        stage, client = Stage(), Client()
        response = asyncio.ensure_future(Watching(stage.stream)({"type": "http"}, client.receive, client.send))
        await client.got(2)
        client.reads.clear()
        await stage.second()
        await response
        assert stage.stream._places == 0

    played(scene)


def test_one_too_many_is_told_so() -> None:
    """With a status that a browser shows, and when to come back."""

    async def scene() -> None:
        stage, client = Stage(most_watchers=0), Client()
        await Watching(stage.stream)({"type": "http", "method": "GET"}, client.receive, client.send)
        assert client.parts[0]["status"] == 503
        assert (b"retry-after", b"5") in client.parts[0]["headers"]

    played(scene)
