"""`edge-hub serve` and `nodes` as processes: wrong use, a taken port, an orderly end."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest


def test_wrong_use(bin_folder: Path) -> None:
    """Neither, both, or a name that is none: exit code 2 and what to do."""
    two, named = ["--broker", "mqtt://h", "--embedded-broker", "1"], ["--broker", "mqtt://h", "--name", "a/b"]
    for options in ([], two, named, ["--broker", "mqtt://h", "--token-file", "f"], [*two[:2], "--bundles-listen", "1"]):
        done = subprocess.run([bin_folder / "edge-hub", "serve", *options], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "Error:" in done.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--broker", "http://x"], "mqtt://"),
        (["--embedded-broker", "99999999"], "99999999"),
        (["--embedded-broker", "{port}", "--store", "/proc/nowhere/records.sqlite"], "/proc/nowhere"),
        (["--embedded-broker", "{port}", "--listen", "0.0.0.0:{port}"], "give --token-file"),
        (["--embedded-broker", "{port}", "--listen", "http"], "'http'"),
        (["--broker", "mqtt://h", "--bundles", "/none", "--bundles-listen", "0.0.0.0:{port}"], "give a certificate"),
        (["--broker", "mqtt://h", "--bundles", "/none", "--bundles-listen", "{port}", "--bundles-url", "x"], "'x'"),
        (["--embedded-broker", "{port}", "--listen", "{port}", "--token-file", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_one_line_and_exit_one(bin_folder: Path, free_port: Callable[[], int], options: list[str], named: str) -> None:
    """What cannot be is one line that names the value."""
    command = [option.format(port=free_port()) for option in options]
    done = subprocess.run(
        [bin_folder / "edge-hub", "serve", *command], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_orderly_end(
    bin_folder: Path, free_port: Callable[[], int], eventually: Callable[..., None], tmp_path: Path, signum: int
) -> None:
    """SIGTERM and Ctrl-C end hub and embedded broker with exit code 0."""
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        hub = subprocess.Popen([bin_folder / "edge-hub", "serve", "--embedded-broker", str(port)], stderr=log)
    eventually(lambda: "takes questions" in (tmp_path / "log").read_text(), limit_s=30)
    hub.send_signal(signum)
    assert hub.wait(15) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 0.5)


def test_it_is_watched_over_http(
    bin_folder: Path, free_port: Callable[[], int], eventually: Callable[..., None], tmp_path: Path
) -> None:
    """Ready once it takes questions; with a token, to those who bring it."""
    (tmp_path / "tokens").write_text("a-token-long-enough\n")
    port, listen = free_port(), free_port()
    command = [bin_folder / "edge-hub", "serve", "--embedded-broker", str(port), "--listen", str(listen)]
    hub = subprocess.Popen([*command, "--token-file", str(tmp_path / "tokens")], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{listen}"

    def ready() -> bool:
        with contextlib.suppress(httpx.ConnectError):
            return httpx.get(f"{url}/readyz").status_code == 200
        return False

    try:
        eventually(ready, limit_s=30)
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{url}/metrics").status_code == 401
        scraped = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer a-token-long-enough"})
        assert "edge_hub_questions_total" in scraped.text
    finally:
        hub.send_signal(signal.SIGTERM)
        assert hub.wait(15) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_nodes_without_a_broker(bin_folder: Path, free_port: Callable[[], int]) -> None:
    """`edge-hub nodes` names the broker that is not there, in one line."""
    command = [bin_folder / "edge-hub", "nodes", "--broker", f"mqtt://127.0.0.1:{free_port()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is a broker running there" in done.stderr
