"""Bundles that somebody made to do harm: each is refused with its reason, and nothing else happens."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_agent import graph_check
from edge_agent.bundle import open_bundle
from edge_agent.bundle_paths import MANIFEST_NAME
from edge_agent.errors import BundleError
from edge_agent.signature import TrustedKey, trusted_key
from edge_agent.tokenizer import open_tokenizer
from tests.edge_agent.hostile_bundles import (
    CASES,
    FEW_FIELDS,
    FEW_NODES,
    GRAPH,
    SIGNED_CASES,
    Keys,
    seal,
    sign,
    whole_bundle,
    written,
)

MOST_MEMORY_BYTES = 64 * 1024**2


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys(ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def trust(keys: Keys) -> tuple[TrustedKey, ...]:
    pem = keys.maker.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return (trusted_key(pem, "maker.pub"),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_bundle(tmp_path_factory.mktemp("whole"))


@pytest.fixture(autouse=True)
def _bounds_that_are_reached_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bound in (("MAX_FIELDS", FEW_FIELDS), ("MAX_NODES", FEW_NODES), ("MAX_TENSORS", FEW_NODES)):
        monkeypatch.setattr(graph_check, name, bound)


@pytest.fixture
def opened(tmp_path: Path, whole: Path) -> Path:
    """A copy of a whole bundle, in a folder of its own beside something that must not change."""
    (tmp_path / "beside").write_text("must stay")
    return Path(shutil.copytree(whole, tmp_path / "bundles" / "bundle"))


def everything_below(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@contextmanager
def harmless(folder: Path) -> Iterator[None]:
    """Nothing below `folder` or in the working directory changes meanwhile, and memory stays in bounds."""
    before, here = everything_below(folder), sorted(os.listdir())
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert everything_below(folder) == before
    assert sorted(os.listdir()) == here
    assert peak < MOST_MEMORY_BYTES


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_bundle_is_refused(name: str, opened: Path, tmp_path: Path) -> None:
    """One line says what is wrong, and nothing is written, run, waited for or read to the end."""
    build, words = CASES[name]
    build(opened)
    with harmless(tmp_path), pytest.raises(BundleError, match=words) as refusal:
        open_tokenizer(open_bundle(opened))
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).isprintable()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", SIGNED_CASES)
def test_a_signature_is_refused(
    name: str, opened: Path, tmp_path: Path, keys: Keys, trust: tuple[TrustedKey, ...]
) -> None:
    """A signature that is not the maker's over all that there is opens nothing."""
    build, words = SIGNED_CASES[name]
    build(opened, keys)
    before = everything_below(tmp_path)
    with pytest.raises(BundleError, match=words) as refusal:
        open_bundle(opened, trust)
    assert "\n" not in str(refusal.value)
    assert everything_below(tmp_path) == before


def test_what_all_of_these_were_made_from_opens(opened: Path, keys: Keys, trust: tuple[TrustedKey, ...]) -> None:
    """Else they would be refused for another reason."""
    seal(opened)
    open_tokenizer(open_bundle(opened))
    sign(opened, keys.maker)
    signer = open_bundle(opened, trust).signer
    assert signer is not None
    assert signer.key == "maker.pub"


def test_a_hard_link_is_a_file(opened: Path, tmp_path: Path) -> None:
    """Its bytes are in the bundle whatever other names it has: nodes share files between bundles so."""
    os.link(opened / GRAPH, tmp_path / "shared")
    open_bundle(opened)


def test_it_is_looked_at_from_the_outside_in(opened: Path, keys: Keys, trust: tuple[TrustedKey, ...]) -> None:
    """With everything wrong at once, the outermost is said first; what is inside was not yet looked at."""
    written("tokenizer/chat_template.jinja", b"{% include 'x' %}")(opened)
    whole = {path: (opened / path).read_bytes() for path in (GRAPH, "tokenizer/tokenizer.json")}
    written("tokenizer/tokenizer.json", b"[]")(opened)
    written(GRAPH, b"no graph")(opened)
    sealed = (opened / MANIFEST_NAME).read_bytes()
    (opened / GRAPH).write_bytes(b"on graph")  # the hash is wrong
    sign(opened, keys.stranger)
    (opened / MANIFEST_NAME).write_bytes(b"{}")
    (opened / "model/link").symlink_to("/etc/passwd")

    def refused(words: str) -> None:
        with pytest.raises(BundleError, match=words):
            open_tokenizer(open_bundle(opened, trust))

    refused("is a link")
    (opened / "model/link").unlink()
    refused("schema None of manifest.json")
    (opened / MANIFEST_NAME).write_bytes(sealed)
    refused("which is not trusted")
    sign(opened, keys.maker)
    refused("has SHA-256")
    (opened / GRAPH).write_bytes(b"no graph")
    refused("this graph is not taken")
    written(GRAPH, whole[GRAPH])(opened)
    sign(opened, keys.maker)
    refused("not a readable tokenizer: Expected `object`")
    written("tokenizer/tokenizer.json", whole["tokenizer/tokenizer.json"])(opened)
    sign(opened, keys.maker)
    refused("this chat template is not taken")
