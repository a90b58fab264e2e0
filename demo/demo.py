"""The main job from end to end, in public commands that it prints as it goes: export, serve, ask, report.

Run it with `make demo`. Everything that it starts it also ends, whatever happens in between.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MODEL = Path("models/SmolLM2-135M-Instruct.Q4_1.gguf")
BUNDLE = Path("bundles/smollm2-desktop-cpu")
QUESTION = "What is the capital of France?"
LONG_QUESTION = "Write a long story about a lighthouse keeper."
LINK_ONE_WAY_MS = 60


class DemoFailed(Exception):
    """Something did not come out as it must; the text says what."""


class Demo:
    """Runs commands, shows them, and ends those that it left running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def show(self, command: list[str], mark: str = "$") -> None:
        print(
            f"\n\033[1m{mark} {shlex.join(command)}\033[0m"
            if sys.stdout.isatty()
            else f"\n{mark} {shlex.join(command)}"
        )
        sys.stdout.flush()

    def start(self, log: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a command in the background, its output in a log file."""
        self.show([*command, "&"])
        with (self.folder / f"{log}.log").open("wb") as output:
            process = subprocess.Popen(self._resolve(command), stdout=output, stderr=output, cwd=ROOT)
        self.running.append(process)
        return process

    def run(self, *command: str) -> None:
        """Run a command to its end, its output shown."""
        self.show(list(command))
        if subprocess.run(self._resolve(command), cwd=ROOT, check=False).returncode != 0:
            raise DemoFailed(f"{command[0]} failed; the logs:\n{self.logs()}")

    def read(self, *command: str) -> str:
        """Run a command silently and return what it printed; empty when it failed."""
        done = subprocess.run(self._resolve(command), cwd=ROOT, check=False, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))

    def end(self) -> None:
        """End what still runs, the youngest first."""
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
        for process in self.running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _resolve(self, command: tuple[str, ...]) -> list[str]:
        if command[0] == "python":
            return [sys.executable, *command[1:]]
        return [str(BIN / command[0]), *command[1:]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_nodes(demo: Demo, broker: str, names: set[str], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        printed = demo.read("edge-hub", "nodes", "--broker", broker, "--json")
        if printed and names <= {node["node"] for node in json.loads(printed) if node["status"] == "ready"}:
            return
        if any(process.poll() is not None for process in demo.running):
            break
    raise DemoFailed(f"the nodes did not come up; the logs:\n{demo.logs()}")


def story(demo: Demo) -> None:
    """Export, start the fleet, ask twice, report."""
    if (ROOT / BUNDLE).exists():
        print(f"using the bundle {BUNDLE} that is there (make clean removes it)")
    else:
        demo.run("edge-export", "--model", str(MODEL), "--profile", "desktop-cpu", "--output", str(BUNDLE))
    port, slow_port = free_port(), free_port()
    broker, slow_broker = f"mqtt://127.0.0.1:{port}", f"mqtt://127.0.0.1:{slow_port}"
    store = str(demo.folder / "records.sqlite")

    demo.start("hub", "edge-hub", "serve", "--embedded-broker", str(port), "--store", store)
    demo.start(
        "link", "python", "demo/slow_link.py",
        "--listen", str(slow_port), "--to", f"127.0.0.1:{port}", "--delay-ms", str(LINK_ONE_WAY_MS),
    )  # fmt: skip
    for name, url in (("near", broker), ("far", slow_broker)):
        demo.start(
            name, "edge-agent", "serve", "--bundle", str(BUNDLE), "--node", name, "--broker", url,
            "--threads", "1", "--parallel", "1",  # one question keeps it busy
        )  # fmt: skip
        # One after the other: a node measures itself as it starts, and these two share a processor.
        wait_for_log(demo, name, f"node {name} is at", limit_s=60)
    wait_for_nodes(demo, broker, {"near", "far"})
    demo.run("edge-hub", "nodes", "--broker", broker)

    print("\nBoth nodes are free: what is between them is the link, and what each measured of itself.")
    demo.run("edge-ask", QUESTION, "--broker", broker, "--device", "kitchen", "--max-tokens", "24")
    demo.run("edge-hub", "explain", "--store", store)

    print("\nNow a long question keeps one node busy, and the wait there is more than what lies between the two.")
    long = demo.start(
        "long", "edge-ask", LONG_QUESTION, "--broker", broker, "--device", "library", "--max-tokens", "200"
    )
    wait_for_log(demo, "hub", "library")  # the hub has said where the long question went
    demo.run("edge-ask", QUESTION, "--broker", broker, "--device", "kitchen", "--max-tokens", "24")
    demo.run("edge-hub", "explain", "--store", store)
    long.wait(timeout=60)

    demo.run("edge-hub", "report", "--store", store)


def wait_for_log(demo: Demo, name: str, text: str, limit_s: float = 10) -> None:
    """Until a command's log has `text`."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end and all(process.poll() is None for process in demo.running):
        if text in (demo.folder / f"{name}.log").read_text():
            return
        time.sleep(0.02)
    raise DemoFailed(f"{text!r} did not come up in {name}.log; the logs:\n{demo.logs()}")


def interrupted(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, interrupted)
    os.environ["PYTHONUNBUFFERED"] = "1"
    with tempfile.TemporaryDirectory(prefix="edgefleet-demo-") as folder:
        demo = Demo(Path(folder))
        try:
            story(demo)
        except DemoFailed as failure:
            print(f"\ndemo: {failure}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ndemo: interrupted", file=sys.stderr)
            return 130
        finally:
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)  # a second Ctrl-C must not leave anything running
            demo.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
