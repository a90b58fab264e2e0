"""Real processes: the commands as a user starts them, ended by the test that started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent


class Processes:
    """Starts commands in the background, runs others to their end, and ends what is left."""

    def __init__(self, folder: Path, eventually: Callable[..., None]) -> None:
        self.folder = folder
        self.store = str(folder / "records.sqlite")
        self.eventually = eventually
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._measuring: set[str] = set()

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start `command`; its output goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(_resolved(command), stdout=output, stderr=output, cwd=ROOT, env=_environment())
        self._started[name] = process
        return process

    def run(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `command` to its end."""
        return subprocess.run(
            _resolved(command),
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=_environment(),
        )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        """SIGKILL: the power is gone."""
        process = self._started.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def end(self, name: str) -> int:
        """SIGTERM, and the exit status."""
        process = self._started.pop(name)
        process.terminate()
        return process.wait(15)

    def end_all(self) -> None:
        for name, process in list(reversed(self._started.items())):
            try:
                self.end(name)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

    # --- a fleet ----------------------------------------------------------------------------------------

    def hub(self, broker: str, *, name: str | None = None) -> None:
        """A hub with a name shares the asks with others; without one it is alone, as with an embedded broker."""
        options = ["--name", name] if name is not None else ["--alone"]
        self.start(name or "hub", "edge-hub", "serve", "--broker", broker, "--store", self.store, *options)

    def node(self, name: str, bundle: Path, broker: str, *options: str) -> None:
        command = ["edge-agent", "serve", "--bundle", str(bundle), "--node", name, "--broker", broker]
        self.start(name, *command, "--threads", "1", *options)
        self._measuring.add(name)

    def noop(self, name: str, broker: str) -> None:
        self.start(name, "python", "benchmarks/noop_node.py", "--broker", broker, "--node", name)

    def slow_link(self, broker: str, port: int, one_way_ms: float) -> str:
        target = broker.removeprefix("mqtt://")
        command = ["demo/slow_link.py", "--listen", str(port), "--to", target, "--delay-ms", str(one_way_ms)]
        self.start(f"link-{port}", "python", *command)
        return f"mqtt://127.0.0.1:{port}"

    def wait_for(self, broker: str, *names: str) -> None:
        """Until the hub takes questions (a plain client asks only once) and these nodes are ready."""
        self.eventually(lambda: "takes questions" in self.log("hub"), limit_s=30)
        for name in self._measuring & set(names):  # no command must run beside a node's measurement of itself
            self.eventually(lambda name=name: f"node {name} is at" in self.log(name), limit_s=60)

        def ready() -> bool:
            printed = self.run("edge-hub", "nodes", "--broker", broker, "--json")
            if printed.returncode != 0:
                return False
            return set(names) <= {node["node"] for node in json.loads(printed.stdout) if node["status"] == "ready"}

        self.eventually(ready, limit_s=60)

    def ask(self, question: str, broker: str, *options: str, device: str = "kitchen") -> dict[str, Any]:
        """The `edge-ask --json` document."""
        done = self.run("edge-ask", question, "--broker", broker, "--device", device, "--json", *options)
        document: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if "error" in document else 0), done.stderr
        return document

    def report(self, *options: str) -> dict[str, Any]:
        """The `edge-hub report --format json` document."""
        done = self.run("edge-hub", "report", "--store", self.store, "--format", "json", *options)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def decisions(self, question_id: str) -> list[dict[str, Any]]:
        """What the hub decided for this question, as `edge-hub explain --json` tells it."""
        found: list[list[dict[str, Any]]] = []

        def explained() -> bool:
            done = self.run("edge-hub", "explain", "--store", self.store, question_id, "--json")
            if done.returncode == 0:
                document = json.loads(done.stdout)
                found.append(document if isinstance(document, list) else [document])
            return done.returncode == 0

        self.eventually(explained, limit_s=15)
        return found[0]


def _resolved(command: tuple[str, ...]) -> list[str]:
    program = command[0]
    if program == "python":
        return [sys.executable, *command[1:]]
    return [str(BIN / program) if program.startswith("edge-") else program, *command[1:]]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def processes(tmp_path: Path, eventually: Callable[..., None]) -> Iterator[Processes]:
    started = Processes(tmp_path, eventually)
    yield started
    started.end_all()
