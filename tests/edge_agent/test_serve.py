"""`edge-agent serve` as a process: wrong use is one line."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.edge_agent.encoder_bundles import encoder_bundle


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx", "cuda"])
def test_a_runtime_that_cannot_be_had_is_one_line(bin_folder: Path, tiny_bundle: Path, runtime: str) -> None:
    """Named, it is no wish: exit code 1, why, and what to do."""
    done = subprocess.run(
        [bin_folder / "edge-agent", "serve", "--bundle", tiny_bundle, "--node", "n", "--runtime", runtime],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"does not run on {runtime}: " in line
    assert "export " in line


def test_an_encoder_answers_over_http(
    bin_folder: Path, tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., None]
) -> None:
    """Served like any bundle, without a broker; SIGTERM ends it cleanly."""
    bundle = encoder_bundle(tmp_path, "feature-extraction", {"good": (3.0, 4.0)})
    port = free_port()
    command = [bin_folder / "edge-agent", "serve", "--bundle", bundle, "--node", "n", "--listen", str(port)]
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")}
    process = subprocess.Popen(
        [*command, "--broker", f"mqtt://127.0.0.1:{free_port()}"], stderr=subprocess.DEVNULL, env=environment
    )
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        with contextlib.suppress(httpx.ConnectError):
            return httpx.get(f"{url}/readyz").status_code == 200
        return False

    try:
        eventually(up, limit_s=30)
        (model, _) = httpx.get(f"{url}/v1/models").json()["data"]
        given = httpx.post(f"{url}/v1/embeddings", json={"model": model["id"], "input": "good"}).json()
        assert len(given["data"][0]["embedding"]) == 2
        assert given["edgefleet"][0]["route"]["why"] == "no hub is in reach"
        assert "edge_records_waiting 1.0" in httpx.get(f"{url}/metrics").text
    finally:
        process.terminate()
        assert process.wait(15) == 0
    assert (tmp_path / "state" / "n-records.db").is_file()


def test_the_broker_may_stand_in_the_environment(bin_folder: Path, tmp_path: Path) -> None:
    """So that its password is on no command line."""
    bundle = encoder_bundle(tmp_path, "feature-extraction", {"good": (3.0, 4.0)})
    done = subprocess.run(
        [bin_folder / "edge-agent", "serve", "--bundle", bundle, "--node", "n"],
        env={**os.environ, "EDGE_BROKER": "http://wrong"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "not a broker URL" in done.stderr
