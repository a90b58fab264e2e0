"""docs/operations.md, run as it stands: the same shell, the same order, but for the numbers of ports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FLEET, ROOT
from tests.secured import PATH

LIMIT_S = 900


def script() -> str:
    """All `sh` blocks of the document."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.DOTALL))


@pytest.mark.model
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.xdist_group(FLEET)
def test_a_first_fleet(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Every command succeeds: the model comes to both nodes, answers, and the stolen device is turned away."""
    text = script().replace("9810", str(free_port())).replace("--path", f"--port {free_port()} --path")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)  # Mosquitto gives up root, and must reach its files
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{PATH}", "EDGE_FLEET_PASSPHRASE": "hallway"}
    output = tmp_path / "output"
    with output.open("wb") as log:
        shell = subprocess.Popen(
            ["bash", "-e", "-c", text], cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = shell.wait(LIMIT_S)
        finally:
            os.killpg(shell.pid, signal.SIGTERM)  # what it left in the background
    said = output.read_text("utf-8", "replace")
    assert code == 0, said[-5000:]
    assert len(re.findall(r"rollout \S+ is done \(2 of 2 nodes serve it\)", said)) == 2, said[-5000:]
    for words in ("signed by", "Paris", "turned away", "certificate revoked"):
        assert words in said, words
