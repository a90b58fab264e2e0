"""Who watches, and what are they sent each second? Server-sent events: everything at first, then what has changed.

While nobody watches, nothing is computed. Every change is made and encoded once, for all. Who does not keep up is let
go, and so is who comes when there are too many; a browser comes back by itself and is sent everything again.

All of it runs in the event loop of the HTTP thread. It knows nothing of what is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Final, Protocol

import anyio
import msgspec
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
MOST_WATCHERS: Final = 32
MOST_BEHIND: Final = 5  # events that wait for one watcher
TAKES_WITHIN_S: Final = 10.0  # an event, once it is being written
RETRY_MS: Final = 2000

Encoded = bytes | None  # an event as it is sent, or the end


class Source(Protocol):
    """Makes what is sent."""

    def begin(self) -> None:
        """Somebody watches, and nobody has before, or for a while."""
        ...

    async def advance(self) -> dict[str, Any]:
        """Go on to the present, and tell what has changed; where this raises, nothing has."""
        ...

    def whole(self) -> dict[str, Any]:
        """Everything, as of the last `advance`."""
        ...


class Stream:
    """The watchers of one hub."""

    def __init__(
        self,
        source: Source,
        *,
        every_s: float = EVERY_S,
        most_watchers: int = MOST_WATCHERS,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._every_s = every_s
        self._most = most_watchers
        self._pause = pause
        self._places = 0
        self._watchers: set[asyncio.Queue[Encoded]] = set()
        self._number = 0
        self._ticking: asyncio.Task[None] | None = None
        self._present = asyncio.Event()  # set while `whole` is of now
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def close(self) -> None:
        """Let all watchers go, and take no more; from any thread."""
        self._closed = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the server has ended before
                self._loop.call_soon_threadsafe(self._let_all_go)

    @contextlib.contextmanager
    def place(self) -> Iterator[bool]:
        """A place for one more watcher; False where there is none."""
        self._loop = asyncio.get_running_loop()
        if self._closed or self._places >= self._most:
            yield False
            return
        self._places += 1
        try:
            yield True
        finally:
            self._places -= 1
            if not self._places and self._ticking is not None:
                self._ticking.cancel()
                self._ticking = None
                self._present.clear()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """What the watcher with a `place` is sent, until it is let go."""
        if self._ticking is None:
            self._source.begin()
            self._ticking = asyncio.create_task(self._tick())
        await self._present.wait()
        # From here to the first `yield` nothing else runs: who has seen all of now is told of every change after it.
        queue: asyncio.Queue[Encoded] = asyncio.Queue(MOST_BEHIND + 1)
        self._watchers.add(queue)
        try:
            yield f"retry: {RETRY_MS}\n\n".encode() + self._encoded("whole", self._source.whole())
            while not self._closed and (event := await queue.get()) is not None:
                yield event
        finally:
            self._watchers.discard(queue)

    async def _tick(self) -> None:
        while True:
            try:
                changed = await self._source.advance()
            except Exception:  # a page must not end for one bad second, nor in silence
                log.exception("what happens cannot be shown")
            else:
                self._number += 1
                self._tell(self._encoded("change", changed))
                self._present.set()
            await self._pause(self._every_s)

    def _tell(self, event: bytes) -> None:
        for queue in list(self._watchers):
            if queue.qsize() < MOST_BEHIND:
                queue.put_nowait(event)
            else:
                log.info("a watcher does not keep up and is let go")
                self._let_go(queue)

    def _let_all_go(self) -> None:
        for queue in list(self._watchers):
            self._let_go(queue)

    def _let_go(self, queue: asyncio.Queue[Encoded]) -> None:
        self._watchers.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)

    def _encoded(self, kind: str, document: dict[str, Any]) -> bytes:
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self._number, kind.encode(), msgspec.json.encode(document))


class Watching:
    """The response to one who watches: a stream that ends as soon as the client is gone or does not read."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stream.place() as has_place:
            if has_place:
                await self._watch(receive, send)
            else:
                text = "too many pages watch this hub, or it is ending: close some, and try again\n"
                await PlainTextResponse(text, 503, headers={"Retry-After": "5"})(scope, receive, send)

    async def _watch(self, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with anyio.create_task_group() as group:  # not asyncio's own tasks: 3.11's wait_for can lose a cancel
            group.start_soon(_until_gone, receive, group.cancel_scope)
            await self._send(send)
            group.cancel_scope.cancel()

    async def _send(self, send: Send) -> None:
        async with contextlib.aclosing(self._stream.events()) as events:
            try:
                async for event in events:
                    part = {"type": "http.response.body", "body": event, "more_body": True}
                    with anyio.fail_after(TAKES_WITHIN_S):
                        await send(part)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except TimeoutError:
                log.info("a watcher reads nothing and is let go")


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
