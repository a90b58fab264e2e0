"""A manifest is trusted with nothing: sizes, names and paths are checked before a file is fetched for it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.bundle_paths import MAX_MANIFEST_BYTES, MAX_TOTAL_BYTES
from edge_agent.deploy.content import blobs, read_content
from edge_agent.errors import DeployError
from tests.edge_agent.deploy.small_bundles import small

SHA = "0" * 64


def manifest(*paths: str, **fields: Any) -> bytes:
    files = [{"path": path, "bytes": 5, "sha256": SHA} for path in paths]
    said = {"bundle_id": "b", "version": 1, "model": {"name": "m"}, "files": files, **fields}
    return msgspec.json.encode(said)


def test_a_real_manifest_says_what_is_needed() -> None:
    """Files, their sizes, and the memory that it took where it was made."""
    one = small(3)
    content = read_content(one.payload)
    assert (content.bundle_id, content.version, content.model.name) == (one.id, 3, "tiny")
    assert content.downgrade_from is None
    assert content.memory_bytes == 1_000_000
    assert blobs(content) == {file.sha256: file.bytes for file in one.manifest.files}
    assert read_content(manifest(downgrade_from=7)).downgrade_from == 7


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("../x", "leaves the bundle"),
        ("model/../../x", "leaves the bundle"),
        ("model//x", "not normalized"),
        ("./x", "not normalized"),
        ("C:x", "a colon"),
        ("a\\b", "a backslash"),
        ("a\x00", "a control character"),
        ("model/" + "x" * 256, "more than 240 characters"),
        ("/".join("x" * 18), "more than 16 directories deep"),
        ("manifest.json", "not for it to list"),
        ("model.sig", "not for it to list"),
        ("manifest.json/x", "no place in a bundle"),
    ],
)
def test_a_path_that_could_be_outside_is_refused(path: str, why: str) -> None:
    """Before anything of that name is made."""
    with pytest.raises(DeployError, match=why):
        read_content(manifest(path))


@pytest.mark.parametrize("paths", [("model/a", "model/a"), ("model/a", "model/a/b"), ("model/b/c", "model/b")])
def test_no_path_means_two_things(paths: tuple[str, ...]) -> None:
    """Neither twice, nor both a file and a folder."""
    with pytest.raises(DeployError, match=r"twice|a file and a folder"):
        read_content(manifest(*paths))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b" " * (MAX_MANIFEST_BYTES + 1),
        manifest(version=-1),
        manifest(bundle_id=""),
        manifest(files=[{"path": "model/a", "bytes": -1, "sha256": SHA}]),
        manifest(files=[{"path": "model/a", "bytes": MAX_TOTAL_BYTES + 1, "sha256": SHA}]),
        manifest(files=[{"path": "model/a", "bytes": 1, "sha256": "../x"}]),
        manifest(
            files=[{"path": "model/a", "bytes": 1, "sha256": SHA}, {"path": "model/b", "bytes": 2, "sha256": SHA}]
        ),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(payload: bytes) -> None:
    """Whatever came under its hash."""
    with pytest.raises(DeployError) as refused:
        read_content(payload)
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: manifest(text)))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    """Never anything else."""
    try:
        content = read_content(payload)
    except DeployError:
        return
    assert all(part not in ("", ".", "..") for file in content.files for part in file.path.split("/"))
