"""The parties of a run as real processes: a Mosquitto that keeps its state on disk, hubs and nodes.

Starts them, ends them by their process id, stops and continues them. Knows nothing of schedules or of what is asked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from .gate import Gate, Gates

ROOT: Final = Path(__file__).resolve().parents[2]
START_LIMIT_S: Final = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program(ABC):
    """One command that may be killed and started again; what it prints is appended to NAME.log."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self._command = command
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._is_wanted = False

    def start(self) -> None:
        """Start it, and wait until it is up."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
        end = time.monotonic() + START_LIMIT_S
        while not self._is_up():
            status = self._process.poll()
            if status is not None or time.monotonic() > end:
                raise SystemExit(f"{self.name} did not start ({status}): {self._log.read_text()[-2000:]}")
        self._is_wanted = True

    def kill(self) -> None:
        """The power is gone."""
        self._is_wanted = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """It stands still until `go_on`."""
        assert self._process is not None
        self._is_stopped = True
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._is_stopped = False

    def end(self) -> None:
        """In order, if it can."""
        self._is_wanted = False
        if self._process is None:
            return
        if self._is_stopped:
            self.go_on()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def died(self) -> int | None:
        """The status with which it ended although nobody had ended it; None where it runs or is not to."""
        return self._process.poll() if self._is_wanted and self._process is not None else None

    @abstractmethod
    def _is_up(self) -> bool:
        """Whether it does what it is there for."""


class Broker(Program):
    """A Mosquitto with a folder of its own; up once it listens."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        data = folder / "broker"
        data.mkdir()
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "persistence true"]
        # What came after the last save is lost with the process: asks that were acknowledged to their asker, Work
        # that was acknowledged to a hub. Askers, hubs and nodes have to make up for that.
        lines += [f"persistence_location {data}/", "autosave_interval 1"]
        config = data / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            raise SystemExit("Mosquitto is not installed (Debian: apt-get install mosquitto)")
        if os.geteuid() == 0:  # Mosquitto gives up root; its files must then be its own
            shutil.chown(data, "mosquitto")
            for parent in (folder, *list(folder.parents)[:-2]):
                parent.chmod(parent.stat().st_mode | 0o055)
        super().__init__("broker", [program, "-c", str(config)], folder)

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
            return True
        time.sleep(0.005)
        return False


class Linked(Program):
    """A hub or node behind its own gate; up once it has tried to connect."""

    def __init__(self, name: str, command: list[str], folder: Path, gate: Gate) -> None:
        self.gate = gate
        super().__init__(name, [*command, "--broker", gate.url], folder)

    def start(self) -> None:
        self.gate.expect()
        super().start()

    def _is_up(self) -> bool:
        return self.gate.knocked(0.1)


def hub(name: str, folder: Path, gates: Gates, broker: Broker, seed: int) -> Linked:
    """`edge-hub serve` with records."""
    program = str(Path(sys.executable).with_name("edge-hub"))
    command = [program, "serve", "--name", name, "--store", str(folder / f"{name}.sqlite")]
    return Linked(name, command, folder, Gate(gates, broker.port, f"{seed} {name}"))


def node(
    name: str, folder: Path, gates: Gates, broker: Broker, seed: int, *, bundle: Path | None, answer_ms: float
) -> Linked:
    """A no-op node that answers in the question's own words, or with `bundle` a real one."""
    if bundle is None:
        command = [sys.executable, str(ROOT / "benchmarks" / "noop_node.py"), "--node", name, "--no-direct"]
        command += ["--answer-ms", f"{answer_ms:.1f}"]
    else:
        command = [str(Path(sys.executable).with_name("edge-agent")), "serve", "--bundle", str(bundle)]
        command += ["--node", name, "--threads", "1"]
    return Linked(name, command, folder, Gate(gates, broker.port, f"{seed} {name}"))
