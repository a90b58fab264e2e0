"""Bundles that were changed at random: none brings the agent down, and none that was signed is opened changed.

`FUZZ_BUNDLES` says how many are made, 200 where it does not (`make fuzz`: 2,000). They are opened by a process of its
own, as `serve` opens them, which then asks for an answer: so that a crash of a library is seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.bundle_paths import SIGNATURE_NAME
from tests.edge_agent.hostile_bundles import Keys, hashes, sign, whole_bundle
from tests.edge_agent.mutations import mutate

ROOT = Path(__file__).resolve().parent.parent.parent
MUTATIONS = int(os.environ.get("FUZZ_BUNDLES", "200"))
OPENED_WITHIN_S = 30.0


class Opener:
    """The process that opens, started again where it ended."""

    def __init__(self, folder: Path, trusted: Path) -> None:
        self.folder = folder
        self._trusted = trusted
        self._process: subprocess.Popen[str] | None = None
        self.outcomes: Counter[str] = Counter()

    def open(self, kind: str, path: Path) -> str:
        """What became of it. Fails where the process died or did not answer in time."""
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kind}:{path}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], OPENED_WITHIN_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            log = (self.folder / "log").read_text()[-2000:]
            raise AssertionError(f"{'died' if ready else 'hangs'}: {self.close()} {log}")
        said: str = json.loads(line)
        return said

    def close(self) -> int | None:
        """End the process; its exit status."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        try:
            return process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _start(self) -> subprocess.Popen[str]:
        here = self.folder / "working-directory"
        here.mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "tests/edge_agent/opening.py"), str(self._trusted)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=here,
                env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(here), "TMPDIR": str(here)},
            )  # fmt: skip


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys(ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Path:
    bundle = whole_bundle(tmp_path_factory.mktemp("whole"))
    sign(bundle, keys.maker)
    return bundle


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory, keys: Keys, whole: Path) -> Iterator[Opener]:
    folder = tmp_path_factory.mktemp("opening")
    public = keys.maker.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "maker.pub").write_bytes(public)
    opener = Opener(folder, folder / "maker.pub")
    # What all others are made from opens; ONNX Runtime writes a database below the home directory when it first runs.
    assert [opener.open(kind, whole) for kind in ("signed", "unsigned")] == ["opened", "opened"]
    yield opener
    opener.close()
    print(f"\n{MUTATIONS} mutations: {dict(opener.outcomes)}")


def content(root: Path) -> dict[str, bytes | None]:
    """Everything in the bundle but its signature; None for what is no file."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in root.rglob("*")
        if path.name != SIGNATURE_NAME or path.parent != root
    }


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    statuses = {str(path): path.lstat() for path in folder.rglob("*") if path.name != "log"}
    return {path: (one.st_mode, one.st_size, one.st_mtime_ns) for path, one in statuses.items()}


def assert_it_is_what_its_manifest_says(root: Path) -> None:
    """Without a key, what is whole by its own account may be opened: every file listed, none else, each hash right."""
    found = {path: payload for path, payload in content(root).items() if not (root / path).is_dir()}
    assert None not in found.values()
    assert {path: hashlib.sha256(payload or b"").hexdigest() for path, payload in found.items()} == hashes(root), (
        "a file that is not what the manifest says"
    )


@pytest.mark.slow
@pytest.mark.timeout(120 + MUTATIONS)
@settings(
    max_examples=MUTATIONS, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(data=st.data(), kind=st.sampled_from(("unsigned", "unsigned", "signed")))
def test_no_mutation_does_harm(kind: str, data: st.DataObject, whole: Path, opener: Opener) -> None:
    """It is refused with a reason or, unsigned, whole by its own account; signed, it is opened unchanged or not at all.

    Nothing outside is written, nothing hangs, and nothing but our own errors comes out.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(whole, Path(folder) / "bundle"))
        mutate(root, data)
        before = snapshot(Path(folder)), snapshot(opener.folder)
        said = opener.open(kind, root)
        opener.outcomes[f"{kind} {said.partition(':')[0]}"] += 1
        assert not said.startswith("raised"), said
        if said == "opened" or said.startswith("fails"):
            if kind == "signed":
                assert content(root) == content(whole)
            else:
                assert_it_is_what_its_manifest_says(root)
        else:
            assert "\n" not in said
        assert (snapshot(Path(folder)), snapshot(opener.folder)) == before
