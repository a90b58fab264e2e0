"""A link that can be made to fail: a TCP proxy in front of the broker, one for each party.

Works on loopback, in a thread of its own. Knows nothing of MQTT: it passes bytes, holds them, throws them away, slows
them down, or resets the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from typing import Any, Final, Literal, TypeVar

Mode = Literal["open", "shut", "held", "deaf"]
_T = TypeVar("_T")
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, as a dead machine's neighbour does
PIECE_BYTES: Final = 48  # on a slow link bytes come in pieces, so that nobody counts on whole packets


class Gates:
    """The thread in which all gates work."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gates", daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` there and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def close(self) -> None:
        """End every connection, and the thread."""
        self.do(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _cancel(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Gate:
    """The link of one party. `first_knock_s` is when somebody first tried to connect since `expect` was called.

    open: bytes pass, each `delay_ms` late. shut: connections are reset, new ones too. held: nothing passes, nothing is
    lost. deaf: what the party says passes, what it is told is lost; to be followed by `shut` or `reset`.
    """

    def __init__(self, gates: Gates, target_port: int, seed: str) -> None:
        self._gates = gates
        self._target_port = target_port
        self._rng = random.Random(seed)
        self._mode: Mode = "open"
        self._delay_s = 0.0
        self._passable: asyncio.Event | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._knocked = threading.Event()
        self.first_knock_s = 0.0
        self.port = gates.do(self._listen())

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def expect(self) -> None:
        """A program is about to be started: note when it first tries to connect."""
        self._knocked.clear()

    def knocked(self, limit_s: float) -> bool:
        """Whether somebody has tried to connect since `expect`, waiting for it."""
        return self._knocked.wait(limit_s)

    def set(self, mode: Mode, *, delay_ms: float = 0.0, reset: bool = False) -> None:
        """Change what happens to bytes; with `reset` every connection is broken first."""
        self._gates.do(self._set(mode, delay_ms / 1000, reset))

    # --- in the gates' thread ---------------------------------------------------------------------------

    async def _listen(self) -> int:
        self._passable = asyncio.Event()
        self._passable.set()
        server = await asyncio.start_server(self._came, "127.0.0.1", 0, backlog=64)
        return int(server.sockets[0].getsockname()[1])

    async def _set(self, mode: Mode, delay_s: float, reset: bool) -> None:
        assert self._passable is not None
        self._mode, self._delay_s = mode, delay_s
        if reset or mode == "shut":
            for writer in list(self._open):
                _reset(writer)
        if mode == "held":
            self._passable.clear()
        else:
            self._passable.set()

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._knocked.is_set():
            self.first_knock_s = time.monotonic()
            self._knocked.set()
        assert self._passable is not None
        self._open.add(writer)
        await self._passable.wait()
        if self._mode == "shut":
            _reset(writer)
            self._open.discard(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset(writer)
            self._open.discard(writer)
            return
        self._open.add(far_writer)
        for one in (writer, far_writer):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        both = [self._carry(reader, far_writer, up=True), self._carry(far_reader, writer, up=False)]
        await asyncio.gather(*both)
        self._open -= {writer, far_writer}

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        """Bytes of one direction, until either end is gone; the end is carried like a byte."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)
        reading = asyncio.ensure_future(self._read(reader, queue))
        try:
            while True:  # until the end of the stream
                due_s, data = await queue.get()
                if (left_s := due_s - time.monotonic()) > 0:
                    await asyncio.sleep(left_s)
                assert self._passable is not None
                await self._passable.wait()
                if not data:
                    break
                if self._mode == "deaf" and not up:
                    continue
                for piece in self._pieces(data):
                    writer.write(piece)
                await writer.drain()
            writer.close()
        except OSError:
            _reset(writer)
        finally:
            reading.cancel()

    async def _read(self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            try:
                data = await reader.read(65536)
            except OSError:
                data = b""
            await queue.put((time.monotonic() + self._delay_s, data))

    def _pieces(self, data: bytes) -> list[bytes]:
        if not self._delay_s:
            return [data]
        pieces = []
        while data:
            size = self._rng.randint(1, PIECE_BYTES)
            pieces.append(data[:size])
            data = data[size:]
        return pieces


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
