"""A TCP link that takes its time: forwards every byte unchanged, `--delay-ms` later, in both directions.

    python demo/slow_link.py --listen 1884 --to 127.0.0.1:1883 --delay-ms 30     # a round trip of 60 ms more

It delays, it does not throttle. Closing either side closes the other; ending the process cuts the cable.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket

CHUNK_BYTES = 65_536


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Copy one direction; each chunk leaves `delay_s` after it came."""
    clock = asyncio.get_running_loop().time
    travelling: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1024)

    async def receive() -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(CHUNK_BYTES):
                await travelling.put((clock() + delay_s, chunk))
        await travelling.put((clock() + delay_s, b""))

    receiving = asyncio.create_task(receive())
    try:
        while True:
            due, chunk = await travelling.get()
            await asyncio.sleep(max(due - clock(), 0))
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        receiving.cancel()
        writer.close()


async def serve(listen: tuple[str, int], target: tuple[str, int], delay_s: float) -> None:
    """Listen and forward until cancelled."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        for stream in (writer, far_writer):
            stream.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(forward(reader, far_writer, delay_s), forward(far_reader, writer, delay_s))

    server = await asyncio.start_server(connected, *listen)
    async with server:
        await server.serve_forever()


def address(text: str) -> tuple[str, int]:
    """`[HOST:]PORT`; loopback where no host is given."""
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description="A TCP link that takes its time.")
    parser.add_argument("--listen", type=address, required=True, metavar="[HOST:]PORT")
    parser.add_argument("--to", type=address, required=True, metavar="HOST:PORT")
    parser.add_argument("--delay-ms", type=float, required=True, help="one way; the round trip grows by twice that")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.listen, options.to, options.delay_ms / 1000))


if __name__ == "__main__":
    main()
