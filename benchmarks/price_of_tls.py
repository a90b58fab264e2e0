"""What does TLS cost? Round trips through Mosquitto in plain text and by TLS, in turns, and making a connection.

    python benchmarks/price_of_tls.py

Two links in one process, one of which sends back what it gets; QoS 1, so each trip is four messages of MQTT each way.
Both brokers are Mosquitto on loopback; the one by TLS is configured by `edge-hub provision`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received
from hub.identity_options import Identity
from hub.loop import Loop
from hub.mqtt_link import Link
from hub.provision.fleet import Fleet, init
from hub.provision.register import BrokerPlace
from hub.provision.subject import Subject

SIZES_BYTES: Final = (200, 20_000, 200_000)
ROUNDS: Final = 10
TRIPS: Final = 100  # of each contender in a round
CONNECTIONS: Final = 40
ASK, ANSWER = "edge/v1/ask/kitchen", "edge/v1/answer/kitchen"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mosquitto(conf: Path, port: int) -> Iterator[None]:
    """A broker that answers on `port`, until the block ends."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("Mosquitto is not installed (Debian: apt-get install mosquitto)")
    process = subprocess.Popen([program, "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(10)


def identities(folder: Path, port: int) -> dict[str, Identity]:
    """A fleet in `folder` with a device and a hub, and its broker's files."""
    now = dt.datetime.now(dt.timezone.utc)
    init(folder / "fleet", None, now)
    fleet = Fleet(folder / "fleet", None)
    broker = folder / "broker"
    fleet.set_broker(BrokerPlace(("localhost",), port, str(broker), 100), now, 1)
    found = {}
    for subject in (Subject("device", "kitchen"), Subject("hub", "hub")):
        made = fleet.issue(subject, now, days=1)
        found[subject.role] = Identity(made / "ca.pem", made / "cert.pem", made / "key.pem")
    shutil.copytree(fleet.broker_folder, broker)
    if os.geteuid() == 0:  # Mosquitto gives up root; its files must then be its own
        for each in [folder, broker, *broker.rglob("*")]:
            shutil.chown(each, "mosquitto")
    return found


def trips(asker: BrokerUrl, answerer: BrokerUrl) -> Callable[[bytes], float]:
    """A function that makes one round trip and returns its milliseconds."""
    got: list[Received] = []
    loop = Loop()
    here = Link(asker, "asker", Handlers(received=got.append), subscriptions=[(ANSWER, 1)])
    there = Link(
        answerer,
        "answerer",
        Handlers(received=lambda message: there.publish(ANSWER, message.payload, qos=1) and None),
        subscriptions=[(ASK, 1)],
    )
    for link in (here, there):
        loop.add(link)
    while not (here.is_open and there.is_open):
        loop.run_once(0.1)

    def trip(payload: bytes) -> float:
        before, started = len(got), time.perf_counter()
        here.publish(ASK, payload, qos=1)
        while len(got) == before:
            loop.run_once(1.0)
        return (time.perf_counter() - started) * 1000

    return trip


def connecting_ms(url: BrokerUrl) -> float:
    loop = Loop()
    link = Link(url, "comer", Handlers(received=print))
    started = time.perf_counter()
    loop.add(link)
    while not link.is_open:
        loop.run_once(0.1)
    took_ms = (time.perf_counter() - started) * 1000
    loop.close()
    return took_ms


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="price-of-tls-") as name, contextlib.ExitStack() as stack:
        folder, plain_port, port = Path(name), free_port(), free_port()
        (folder / "plain.conf").write_text(f"listener {plain_port} 127.0.0.1\nallow_anonymous true\n")
        known = identities(folder, port)
        stack.enter_context(mosquitto(folder / "plain.conf", plain_port))
        stack.enter_context(mosquitto(folder / "broker" / "mosquitto.conf", port))
        plain = BrokerUrl.parse(f"mqtt://127.0.0.1:{plain_port}")
        device, hub = (known[role].at(f"mqtts://localhost:{port}") for role in ("device", "hub"))
        contenders = {"plain": trips(plain, plain), "tls": trips(device, hub)}
        rows = {f"round trip, {size} bytes": _compared(contenders, b"x" * size) for size in SIZES_BYTES}
        came: dict[str, list[float]] = {"plain": [], "tls": []}
        for _ in range(CONNECTIONS):
            came["plain"].append(connecting_ms(plain))
            came["tls"].append(connecting_ms(device))
        rows["to connect"] = {name: statistics.median(each) for name, each in came.items()}
    for what, row in rows.items():
        ratio = row["tls"] / row["plain"]
        print(f"{what:<28} plain {row['plain']:7.2f} ms   tls {row['tls']:7.2f} ms   ratio {ratio:.2f}")
    print(json.dumps(rows))


def _compared(contenders: dict[str, Callable[[bytes], float]], payload: bytes) -> dict[str, float]:
    for trip in contenders.values():
        for _ in range(TRIPS):
            trip(payload)
    medians: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, trip in contenders.items():
            medians[name].append(statistics.median(trip(payload) for _ in range(TRIPS)))
    return {name: statistics.median(each) for name, each in medians.items()}


if __name__ == "__main__":
    main()
