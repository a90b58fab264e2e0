"""Engines are found under all that they depend on, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_agent.manifest import BundleFile
from edge_agent.runtime.engine_cache import Key, cache_folder, find_engine, graph_sha256, keeping, recipe_sha256
from tests.edge_agent.conftest import draft_manifest

KEY = Key(
    gpu="Orin", compute_capability="8.7", tensorrt="tensorrt 10.3.0", cuda="12.6", driver="540.4.0",
    graph_sha256="a" * 64, recipe_sha256="b" * 64,
)  # fmt: skip


def keep(folder: Path, key: Key = KEY, content: bytes = b"engine") -> Path:
    with keeping(folder, key) as path:
        path.write_bytes(content)
    found = find_engine(folder, key)
    assert found is not None
    return found


@pytest.mark.parametrize("field", Key.__struct_fields__)
def test_any_change_is_another_entry(field: str, tmp_path: Path) -> None:
    """GPU, capability, TensorRT, CUDA, driver, graph and recipe each make a key of their own."""
    engine = keep(tmp_path)
    assert engine.read_bytes() == b"engine"
    assert find_engine(tmp_path, msgspec.structs.replace(KEY, **{field: "c"})) is None
    assert engine.parent.name == KEY.sha256
    assert msgspec.json.decode((engine.parent / "key.json").read_bytes())["key"]["gpu"] == "Orin"


@pytest.mark.parametrize(
    "damage", ["engine shorter", "engine changed", "engine gone", "key gone", "key cut", "key other"]
)
def test_a_damaged_entry_is_not_used_and_makes_way(damage: str, tmp_path: Path) -> None:
    """Whatever is wrong with it, it counts as none, and the next one takes its place."""
    engine = keep(tmp_path)
    entry = engine.parent / "key.json"
    {
        "engine shorter": lambda: engine.write_bytes(b"engin"),
        "engine changed": lambda: engine.write_bytes(b"enginE"),
        "engine gone": engine.unlink,
        "key gone": entry.unlink,
        "key cut": lambda: entry.write_bytes(entry.read_bytes()[:40]),
        "key other": lambda: entry.write_bytes(entry.read_bytes().replace(b"Orin", b"Thor")),
    }[damage]()
    assert find_engine(tmp_path, KEY) is None
    assert keep(tmp_path, content=b"again").read_bytes() == b"again"


def test_what_ends_badly_leaves_nothing(tmp_path: Path) -> None:
    """Neither an entry nor a file, and an entry that was there stays."""
    engine = keep(tmp_path)
    with pytest.raises(FileNotFoundError), keeping(tmp_path, KEY) as path:
        path.with_name("half").write_bytes(b"half")  # and no engine
    assert find_engine(tmp_path, KEY) == engine
    assert [path.name for path in tmp_path.iterdir()] == [KEY.sha256]


def test_a_graph_is_known_by_all_its_files() -> None:
    """The graph and the weights beside it, not the other graphs; a recipe by its values, in whatever order."""
    files = {"model/d.onnx": "1", "model/d.onnx.data": "2", "model/e.onnx": "3"}

    def of(**changed: str) -> str:
        listed = {**files, **{path.replace("_", "."): digit for path, digit in changed.items()}}
        entries = tuple(BundleFile(path=path, bytes=1, sha256=digit * 64) for path, digit in listed.items())
        return graph_sha256(msgspec.structs.replace(draft_manifest(), files=entries), "model/d.onnx")

    assert of() == of(**{"model/e_onnx": "9"})
    assert of() != of(**{"model/d_onnx_data": "9"})
    assert of() != of(**{"model/d_onnx": "9"})
    assert recipe_sha256({"a": 1, "b": 2}) == recipe_sha256({"b": 2, "a": 1}) != recipe_sha256({"a": 1, "b": 3})


def test_engines_are_kept_where_caches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME, or ~/.cache (XDG Base Directory Specification)."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/edgefleet/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/node")
    assert cache_folder() == Path("/home/node/.cache/edgefleet/engines")
