"""`edge-agent serve` as a process: wrong use is one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.edge_agent.encoder_bundles import encoder_bundle


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


def test_an_encoder_bundle_is_not_served(bin_folder: Path, tmp_path: Path) -> None:
    """One line that says what it does and what can be done with it."""
    bundle = encoder_bundle(tmp_path, "text-classification", {"good": (1.0, 0.0)}, labels=("a", "b"))
    done = subprocess.run(
        [bin_folder / "edge-agent", "serve", "--bundle", bundle, "--node", "n"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "text-classification answers no questions in text" in done.stderr
