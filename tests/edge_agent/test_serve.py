"""`edge-agent serve` as a process: wrong use is one line."""

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
        (["--bundle", "{tmp}", "--node", "n", "--context", "1"], 2, "--context"),
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
