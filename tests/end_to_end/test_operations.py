"""docs/operations.md, run as it stands: the same shell, the same order, but for the numbers of ports.

The one command that takes minutes, the export, was run before for all tests; its bundle is signed here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.secured import PATH

LIMIT_S = 300


def script(bundle: Path) -> str:
    """All `sh` blocks of the document, with `bundle` for what is exported."""
    document = (ROOT / "docs" / "operations.md").read_text("utf-8")
    text = "\n".join(re.findall(r"```sh\n(.*?)```", document, re.DOTALL))
    taken = f"mkdir bundles\ncp -r {bundle} bundles/smollm2\nedge-export --bundle bundles/smollm2 --sign sign.pem\n"
    text, exports = re.subn(r"edge-export --model .*?--output bundles/smollm2\n", taken, text, flags=re.DOTALL)
    assert exports == 1
    return text


@pytest.mark.model
@pytest.mark.broker
@pytest.mark.openssl
@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
def test_a_first_fleet(tmp_path: Path, bundle: Path, free_port: Callable[[], int]) -> None:
    """Every command succeeds: the model comes to both nodes, answers, and the stolen device is turned away."""
    text = script(bundle).replace("9810", str(free_port())).replace("--path", f"--port {free_port()} --path")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)  # Mosquitto gives up root, and must reach its files
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
