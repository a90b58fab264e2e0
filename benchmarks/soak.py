"""Does a node's memory stay flat over many questions? Asks 30,000 of them and watches its resident memory.

    python benchmarks/soak.py --bundle bundles/smollm2 [--questions 30000]

The node is a process as a user starts it, without a broker, asked over HTTP by several clients at once: questions
of few or many words and few tokens to answer, some streamed, some left in the middle, some refused. Everything that is
bounded (caches, queues) fills up early; what still grows behind the first third is a leak. Prints a table, then one
line of JSON; exit code 1 if memory grew by more than LEAK_SHARE or a question had no outcome.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import psutil

CLIENTS: Final = 8
LEAK_SHARE: Final = 0.05  # of resident memory after the first third
LOOKS: Final = 30
WORDS: Final = ("sea", "lighthouse", "keeper", "bread", "river", "engine", "window", "paris", "moon", "garden", "story")


class Tally:
    """How questions ended, by kind; any thread counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.outcomes: dict[str, int] = {}

    def add(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    @property
    def total(self) -> int:
        with self._lock:
            return sum(self.outcomes.values())


def ask(client: httpx.Client, draw: random.Random, model: str) -> str:
    """One question of a kind that is drawn; how it ended."""
    kind = draw.choices(("short", "streamed", "left", "long", "wrong"), (70, 15, 5, 9, 1))[0]
    words = draw.choices(WORDS, k=draw.randint(3, 200 if kind == "long" else 20))
    body: dict[str, Any] = {
        "model": model if kind != "wrong" else "none",
        "messages": [{"role": "user", "content": " ".join(words)}],
        "max_tokens": draw.randint(1, 6),
        "temperature": draw.choice((0.0, 0.0, 0.8)),
        "stream": kind in ("streamed", "left"),
    }
    if kind not in ("streamed", "left"):
        status = client.post("/v1/chat/completions", json=body).status_code
        return {200: "answered", 400: "refused", 404: "refused"}.get(status, f"status {status}")
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if kind == "left":
                return "left"
            if line == "data: [DONE]":
                return "answered"
    return "stream without an end"


def clients(url: str, model: str, questions: int, tally: Tally) -> list[threading.Thread]:
    """Threads that ask `questions` together."""

    def work(number: int) -> None:
        draw = random.Random(number)
        with httpx.Client(base_url=url, timeout=120) as client:
            for _ in range(questions // CLIENTS):
                try:
                    tally.add(ask(client, draw, model))
                except httpx.HTTPError as error:
                    tally.add(type(error).__name__)

    return [threading.Thread(target=work, args=(number,), daemon=True) for number in range(CLIENTS)]


def started(command: list[str], url: str) -> subprocess.Popen[bytes]:
    """The node, once it is ready."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return process
        time.sleep(0.1)
    process.kill()
    raise SystemExit("the node was not ready within a minute")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    parser = argparse.ArgumentParser(description="Watch a node's memory over many questions.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=30_000)
    options = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    agent = str(Path(sys.executable).with_name("edge-agent"))
    folder = tempfile.TemporaryDirectory(prefix="edgefleet-soak-")
    command = [agent, "serve", "--bundle", str(options.bundle), "--node", "soak", "--listen", str(port)]
    command += ["--records", f"{folder.name}/records.db", "--broker", f"mqtt://127.0.0.1:{free_port()}"]
    process = started(command, url)
    tally, looks = Tally(), []
    try:
        model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        node = psutil.Process(process.pid)
        threads = clients(url, model, options.questions, tally)
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        print("questions  seconds  resident MB")
        while any(thread.is_alive() for thread in threads):
            if tally.total >= len(looks) * options.questions / LOOKS:
                looks.append((tally.total, node.memory_info().rss))
                print(f"{tally.total:9d}  {time.monotonic() - begun:7.0f}  {looks[-1][1] / 1e6:11.1f}", flush=True)
            time.sleep(0.05)
        looks.append((tally.total, node.memory_info().rss))
        took_s = time.monotonic() - begun
    finally:
        process.terminate()
        process.wait(30)
        folder.cleanup()
    settled = max(rss for total, rss in looks if total <= options.questions / 3)
    growth = looks[-1][1] / settled - 1
    odd = {name: count for name, count in tally.outcomes.items() if name not in ("answered", "left", "refused")}
    print(
        json.dumps(
            {
                "questions": tally.total,
                "outcomes": tally.outcomes,
                "seconds": round(took_s, 1),
                "resident_mb": [round(rss / 1e6, 1) for _, rss in looks],
                "growth_after_first_third": round(growth, 4),
            }
        )
    )
    return 1 if growth > LEAK_SHARE or odd else 0


if __name__ == "__main__":
    sys.exit(main())
