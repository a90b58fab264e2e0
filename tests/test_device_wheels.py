"""What a device installs comes as wheels for it: nothing is compiled on a Jetson."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
GLIBC = {"3.10": "2_35", "3.12": "2_39"}  # of JetPack 6 (Ubuntu 22.04) and 7 (24.04)


def requirements(python: str) -> list[str]:
    """What base and agent need on that Python, pinned as tested where that Python was tested."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = map(Requirement, (*project["dependencies"], *project["optional-dependencies"]["agent"]))
    return [
        f"{one.name}{one.specifier}"
        for one in wanted
        if one.marker is None or one.marker.evaluate({"python_version": python})
    ]


def pins(python: str) -> list[str]:
    """The lines of constraints.txt that hold there."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines())
    all_pins = [Requirement(line) for line in lines if line]
    held = (one for one in all_pins if one.marker is None or one.marker.evaluate({"python_version": python}))
    return [f"{one.name}{one.specifier}" for one in held]


@pytest.mark.slow
@pytest.mark.parametrize("python", sorted(GLIBC))
def test_a_jetson_gets_wheels(python: str, tmp_path: Path) -> None:
    """On Python 3.10 with the pins, on 3.12 too: pip finds a wheel for aarch64 for everything, and builds nothing."""
    (tmp_path / "constraints.txt").write_text("\n".join(pins(python)))
    platforms = [f"--platform=manylinux_{glibc}_aarch64" for glibc in (GLIBC[python], "2_28", "2_17")]
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-",
            "--disable-pip-version-check", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp",
            *platforms, "--target", str(tmp_path / "device"), "-c", str(tmp_path / "constraints.txt"),
            *requirements(python),
        ],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode != 0 and "connection" in done.stderr.lower():
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    files = [one["download_info"]["url"].rsplit("/", 1)[-1] for one in json.loads(done.stdout)["install"]]
    names = {file.split("-")[0].lower() for file in files}
    assert names >= {"numpy", "onnxruntime", "tokenizers", "msgspec", "psutil", "starlette", "uvicorn"}
    assert all(file.endswith(".whl") for file in files)
    assert all("x86_64" not in file for file in files)
