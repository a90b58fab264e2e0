"""`edge-agent serve`: what its options may not say together is refused before anything is opened."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--bundle", "{tmp}/missing", "--node", "n"], 1, "missing"),
        (["--bundle", "{tmp}", "--node", "a/b"], 2, "a/b"),
        (["--node", "n"], 2, "--bundle"),
        (["--deployments", "{tmp}/d"], 2, "needs --trust"),
        (["--bundle", "{tmp}", "--quiet-hours", "1-2"], 2, "does nothing without --deployments"),
        (["--bundle", "{tmp}", "--profile", "toaster"], 2, "unknown profile"),
        (["--bundle", "{tmp}", "--node", "n", "--context", "1"], 2, "--context"),
        (["--bundle", "{tmp}", "--node", "n", "--listen", "0.0.0.0:0"], 1, "--api-key-file"),
        (["--bundle", "{tmp}", "--node", "n", "--listen", "http"], 1, "'http'"),
        (["--bundle", "{tmp}", "--node", "n", "--runtime", "gpu"], 2, "'gpu'"),
        (["--bundle", "{tmp}", "--node", "n", "--api-key-file", "{tmp}/keys"], 2, "--listen"),
        (["--bundle", "{tmp}", "--node", "n", "--records", "{tmp}/r.db"], 2, "--records does nothing without --listen"),
        (["--bundle", "{tmp}", "--node", "n", "--remote-margin-ms", "5"], 2, "--remote-margin-ms does nothing"),
        (["--bundle", "{tmp}", "--node", "n", "--device", "a/b"], 2, "cannot name a device"),
    ],
)
def test_refused(bin_folder: Path, tmp_path: Path, options: list[str], code: int, named: str) -> None:
    """What cannot be served is refused before a broker is asked, with the value."""
    command = [option.format(tmp=tmp_path) for option in options]
    done = subprocess.run(
        [bin_folder / "edge-agent", "serve", *command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code
    assert named in done.stderr
    assert "Traceback" not in done.stderr
