"""What a hub reads of a bundle, and what it refuses to touch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from hub.errors import RolloutError
from hub.rollout import contents
from hub.rollout.contents import open_file, read_contents
from tests.hub.rollout.made import make_bundle, manifest_of, write_manifest


def test_what_it_consists_of(tmp_path: Path) -> None:
    """Every file by its hash, the manifest and the signature too; what the hub does not know is ignored."""
    found = read_contents(make_bundle(tmp_path / "b", version=3, copy=b"w" * 100_000))
    assert found.name == f"{found.bundle}-v3"
    assert (found.model, found.profile, found.task) == ("smol", "orin", "text-generation")
    manifest = (tmp_path / "b" / "manifest.json").read_bytes()
    assert found.manifest.sha256 == hashlib.sha256(manifest).hexdigest()
    assert found.signature is not None
    assert len(found.files) == 4
    assert len(found.blobs) == 5  # two files are the same
    assert found.size_bytes == len(manifest) + found.signature.bytes + len(b"graph") + 100_000 + len(b"{}")


def test_unsigned(tmp_path: Path) -> None:
    """It is said that there is none."""
    assert read_contents(make_bundle(tmp_path / "b", signed=False)).signature is None


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../up", "a/../../up", "a//b", "./a", "a\\b", "C:a", "", "a\0b", "manifest.json", "model.sig"],
)
def test_paths_out_of_the_bundle(tmp_path: Path, path: str) -> None:
    """Refused, with the path."""
    root = make_bundle(tmp_path / "b")
    manifest = manifest_of(root)
    manifest["files"][0]["path"] = path
    write_manifest(root, manifest)
    with pytest.raises(RolloutError, match=r"path|listed"):
        read_contents(root)


@pytest.mark.parametrize(
    "change",
    [
        {"bundle_id": "../up"}, {"bundle_id": "a/b"}, {"bundle_id": "x" * 300}, {"version": -1}, {"version": "1"},
        {"model": {}}, {"files": [{"path": "a", "bytes": -1, "sha256": "0" * 64}]},
        {"files": [{"path": "a", "bytes": 1, "sha256": "0"}]},
        {"files": [{"path": "a", "bytes": 2**60, "sha256": "0" * 64}]},
        {"files": [{"path": "a", "bytes": 1, "sha256": "0" * 64}] * 2},
    ],
)  # fmt: skip
def test_manifests_that_cannot_be(tmp_path: Path, change: dict[str, object]) -> None:
    """Refused in one line."""
    root = make_bundle(tmp_path / "b")
    write_manifest(root, {**manifest_of(root), **change})
    with pytest.raises(RolloutError):
        read_contents(root)


def test_too_large_or_no_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest is read up to its limit and no further."""
    root = make_bundle(tmp_path / "b")
    (root / "manifest.json").write_bytes(b"\xff{")
    with pytest.raises(RolloutError, match="cannot be read"):
        read_contents(root)
    monkeypatch.setattr(contents, "MAX_MANIFEST_BYTES", 10)
    (root / "manifest.json").write_text("{" + " " * 10 + "}")
    with pytest.raises(RolloutError, match="larger than 10"):
        read_contents(root)
    with pytest.raises(RolloutError, match=r"no manifest\.json"):
        read_contents(tmp_path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither as a file nor on the way to one; nor is anything opened that is no plain file."""
    (tmp_path / "secret").write_text("s")
    root = make_bundle(tmp_path / "b")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "way").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    for path in ("link", "way/secret", "pipe", "model", "none", "model/none"):
        with pytest.raises(RolloutError):
            open_file(root, path)
    (root / "manifest.json").unlink()
    (root / "manifest.json").symlink_to(tmp_path / "secret")
    with pytest.raises(RolloutError):
        read_contents(root)
