"""Bundles as far as a hub looks into them: files, and a manifest that answers for each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FILES = {"model/decoder.onnx": b"graph", "model/weights.data": b"w" * 100_000, "tokenizer/tokenizer.json": b"{}"}


def make_bundle(
    root: Path, *, version: int = 1, model: str = "smol", profile: str = "orin", signed: bool = True, **files: bytes
) -> Path:
    """A bundle in the new directory `root`; `files` by name are beside or instead of FILES below `model/`."""
    contents = {**FILES, **{f"model/{name}": payload for name, payload in files.items()}}
    for path, payload in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(payload)
    listed = [
        {"path": path, "bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
        for path, payload in sorted(contents.items())
    ]
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:12]
    write_manifest(root, {
        "schema": 2, "bundle_id": f"{model}-{profile}-{digest}", "version": version, "model": {"name": model},
        "task": "text-generation", "profile": profile, "files": listed, "samples": [],
    })  # fmt: skip
    if signed:
        (root / "model.sig").write_text(f"signed {digest} {version}")
    return root


def write_manifest(root: Path, manifest: dict[str, Any]) -> None:
    """Let the bundle say this of itself."""
    (root / "manifest.json").write_text(json.dumps(manifest))


def manifest_of(root: Path) -> dict[str, Any]:
    """What it says."""
    manifest: dict[str, Any] = json.loads((root / "manifest.json").read_text())
    return manifest
