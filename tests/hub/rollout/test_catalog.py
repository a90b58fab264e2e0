"""The store of bundles: each file once, whole or not there, whoever else deploys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hub.errors import RolloutError
from hub.rollout.catalog import Catalog
from tests.hub.rollout.made import FILES, make_bundle


def test_each_file_once(tmp_path: Path) -> None:
    """A second version that shares its weights brings the rest; adding again changes nothing."""
    store = Catalog(tmp_path / "store")
    first = store.add(make_bundle(tmp_path / "v1", version=1))
    blobs = sorted((tmp_path / "store" / "blobs").iterdir())
    assert sorted(first.blobs) == [path.name for path in blobs]
    kept = {path: path.stat().st_ino for path in blobs}
    second = store.add(make_bundle(tmp_path / "v2", version=2, more=b"new"))
    assert len(set(second.blobs) - set(first.blobs)) == 3  # manifest, signature, more
    assert store.add(tmp_path / "v1") == first
    assert {path: path.stat().st_ino for path in blobs} == kept
    assert store.all() == sorted([first, second], key=lambda contents: contents.name)
    assert store.get(first.bundle, 1) == first
    assert store.get(first.bundle, 9) is None
    weights = next(file for file in first.files if file.path == "model/weights.data")
    path = store.blob(weights.sha256)
    assert path is not None
    assert path.read_bytes() == FILES["model/weights.data"]


@pytest.mark.parametrize("name", ["", "0" * 63, "0" * 65, "A" * 64, "../bundles/a", "0" * 64, f"{'0' * 64}\n"])
def test_names_that_are_no_blob(tmp_path: Path, name: str) -> None:
    """Whatever is asked for: only a hash that is there is a path."""
    store = Catalog(tmp_path)
    store.add(make_bundle(tmp_path / "v1"))
    assert store.blob(name) is None


def test_files_that_are_not_what_the_manifest_says(tmp_path: Path) -> None:
    """Longer, shorter or other: refused, and the bundle is not there, nor what was copied of the bad file."""
    for number, payload in enumerate((b"grap", b"graph!", b"grape")):
        root = make_bundle(tmp_path / f"b{number}")
        (root / "model" / "decoder.onnx").write_bytes(payload)
        store = Catalog(tmp_path / f"store{number}")
        with pytest.raises(RolloutError, match="not what the manifest says"):
            store.add(root)
        assert store.all() == []
        assert not [path for path in (store.root / "blobs").iterdir() if path.name.startswith(".")]


def test_same_name_and_other_content(tmp_path: Path) -> None:
    """A version is one bundle for ever; only a signature may come later."""
    store = Catalog(tmp_path / "store")
    root = make_bundle(tmp_path / "v1", signed=False)
    assert store.add(root).signature is None
    (root / "model.sig").write_text("signed")
    assert store.add(root).signature is not None
    (root / "manifest.json").write_text((root / "manifest.json").read_text().replace('"samples": []', '"samples": [1]'))
    with pytest.raises(RolloutError, match="higher version"):
        store.add(root)


def test_removed_with_what_nobody_else_has(tmp_path: Path) -> None:
    """Files of another bundle stay."""
    store = Catalog(tmp_path / "store")
    first, second = store.add(make_bundle(tmp_path / "v1")), store.add(make_bundle(tmp_path / "v2", version=2, m=b"n"))
    freed = store.remove(second.name)
    assert freed == sum(size for sha256, size in second.blobs.items() if sha256 not in first.blobs)
    assert {path.name for path in (store.root / "blobs").iterdir()} == set(first.blobs)
    for name in (second.name, "../catalog", ".x"):
        with pytest.raises(RolloutError):
            store.remove(name)


def test_killed_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rename or sync is the last thing it does: no bundle is named whose files are not there, and the next
    attempt brings it.
    """
    root = make_bundle(tmp_path / "v1")
    for last in range(20):
        store = Catalog(tmp_path / f"store{last}")
        left = [last]

        def dies(call: object, left: list[int] = left) -> object:
            def instead(*args: object) -> object:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                return call(*args)  # type: ignore[operator]

            return instead

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", dies(os.fsync))
            patched.setattr(Path, "replace", dies(Path.replace))
            try:
                store.add(root)
                died = False
            except KeyboardInterrupt:
                died = True
        for contents in store.all():
            assert all(store.blob(sha256) for sha256 in contents.blobs)
        assert [each.version for each in [store.add(root)]] == [1]
        assert not list((store.root / "blobs").glob(".*"))
    assert died is False  # the last ones have let it come to its end


def test_a_second_shell_waits(tmp_path: Path) -> None:
    """While one changes the directory, another process does not."""
    store = Catalog(tmp_path / "store")
    store.add(make_bundle(tmp_path / "v1"))
    root = make_bundle(tmp_path / "v2", version=2)
    script = (
        f"from pathlib import Path; from hub.rollout.catalog import Catalog; Catalog(Path({str(store.root)!r}))"
        f".add(Path({str(root)!r}))"
    )
    with store.locked():
        other = subprocess.Popen([sys.executable, "-c", script])
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1.5)
        assert len(store.all()) == 1
    assert other.wait(20) == 0
    assert len(store.all()) == 2


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    """With its name, and what to do."""
    store = Catalog(tmp_path)
    contents = store.add(make_bundle(tmp_path / "v1"))
    (tmp_path / "bundles" / f"{contents.name}.json").write_text("{")
    with pytest.raises(RolloutError, match="is damaged"):
        store.all()
