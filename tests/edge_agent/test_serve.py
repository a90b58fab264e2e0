"""`edge-agent serve` as a process: wrong use is one line."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.edge_agent.encoder_bundles import encoder_bundle
from tests.edge_agent.hostile_bundles import sign


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


def test_only_what_a_trusted_key_signed_is_served(
    bin_folder: Path, tiny_bundle: Path, tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., None]
) -> None:
    """Unsigned, it is refused in one line before a broker is asked; signed by either of two keys, it is opened."""
    key, stranger = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    options = []
    for name, one in (("old", stranger), ("new", key)):
        public = one.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pub").write_bytes(public)
        options += ["--trust", str(tmp_path / f"{name}.pub")]
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    broker = f"mqtt://127.0.0.1:{free_port()}"  # nobody listens there
    command = [bin_folder / "edge-agent", "serve", "--bundle", bundle, "--node", "n", "--broker", broker, *options]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    assert "is not signed" in refused.stderr
    assert "Traceback" not in refused.stderr
    sign(bundle, key)
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            eventually(lambda: "opened tiny-" in (tmp_path / "log").read_text() or process.poll() is not None, 60)
        finally:
            process.terminate()
    assert f"is signed by {tmp_path}/new.pub" in (tmp_path / "log").read_text()
