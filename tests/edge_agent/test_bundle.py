"""Writing and opening bundles: what is refused, with what words, and what the name of a bundle depends on."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import bundle
from edge_agent.bundle import bundle_id, encode_manifest, open_bundle, staged_id, write_bundle
from edge_agent.bundle_paths import MANIFEST_NAME, MAX_MANIFEST_BYTES, path_refusal
from edge_agent.errors import BundleError
from edge_agent.manifest import Manifest
from edge_agent.signature import trusted_key
from tests.edge_agent.hostile_bundles import sign


@pytest.fixture
def opened(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A copy of a bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def rewrite(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((root / MANIFEST_NAME).read_bytes())
    change(document)
    (root / MANIFEST_NAME).write_text(json.dumps(document))


def test_what_was_written_opens(tiny_bundle: Path) -> None:
    """A written bundle opens, lists all its files, and finds them by name."""
    opened = open_bundle(tiny_bundle)
    assert {entry.path for entry in opened.manifest.files} == {
        "model/decoder.onnx",
        "tokenizer/chat_template.jinja",
        "tokenizer/tokenizer.json",
    }
    assert opened.file("model/decoder.onnx").is_file()
    with pytest.raises(BundleError, match="no file of this bundle"):
        opened.file("manifest.json")


def test_the_id_is_known_before_the_bundle_is_written(opened: Path, tmp_path: Path) -> None:
    """What is staged later beside graphs and tokenizer, a report for one, changes nothing of it."""
    manifest = open_bundle(opened).manifest
    (opened / MANIFEST_NAME).unlink()
    foreseen = staged_id(opened, manifest)
    (opened / "report.json").write_text("{}")
    assert write_bundle(opened, tmp_path / "written", manifest).bundle_id == foreseen == manifest.bundle_id


def test_the_root_may_be_reached_through_a_link(tmp_path: Path, tiny_bundle: Path) -> None:
    """`current -> v3` is how a device switches versions; only links inside are refused."""
    (tmp_path / "current").symlink_to(tiny_bundle)
    assert open_bundle(tmp_path / "current").path == tiny_bundle.resolve()


def test_a_signature_beside_the_manifest_is_no_extra_file(opened: Path) -> None:
    """model.sig is not listed and not refused."""
    (opened / "model.sig").write_bytes(b"signed")
    assert all(entry.path != "model.sig" for entry in open_bundle(opened).manifest.files)


# --- what is refused ------------------------------------------------------------------------------------


def flip(root: Path) -> None:
    path = root / "model" / "decoder.onnx"
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)


def link_file(root: Path) -> None:
    path = root / "model" / "decoder.onnx"
    path.rename(root.parent / "elsewhere")
    path.symlink_to(root.parent / "elsewhere")


def link_folder(root: Path) -> None:
    (root / "model").rename(root.parent / "model")
    (root / "model").symlink_to(root.parent / "model")


def link_manifest(root: Path) -> None:
    (root / MANIFEST_NAME).rename(root.parent / "m.json")
    (root / MANIFEST_NAME).symlink_to(root.parent / "m.json")


def pipe(root: Path) -> None:
    (root / "model" / "decoder.onnx").unlink()
    os.mkfifo(root / "model" / "decoder.onnx")


def unix_socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root)  # the path of a socket may only be short
        listener.bind("s")


def pipe_as_manifest(root: Path) -> None:
    (root / MANIFEST_NAME).unlink()
    os.mkfifo(root / MANIFEST_NAME)


def deep_folders(root: Path) -> None:
    (root / "/".join("d" * 20)).mkdir(parents=True)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit": (flip, "'model/decoder.onnx' has SHA-256 .* copy the bundle again"),
    "a byte more": (
        lambda root: (root / "model/decoder.onnx").open("ab").write(b"x"),
        "'model/decoder.onnx' has .* bytes, the manifest says",
    ),
    "missing file": (lambda root: (root / "tokenizer/tokenizer.json").unlink(), "tokenizer.json' is listed .* missing"),
    "extra file": (lambda root: (root / "model/more.bin").write_bytes(b""), "'model/more.bin' is not listed"),
    "extra at the top": (lambda root: (root / "run.sh").write_text("x"), "'run.sh' has no place in a bundle"),
    "file in a folder named as the signature": (
        lambda root: ((root / "model.sig").mkdir(), (root / "model.sig/x").write_text("")),
        "'model.sig/x' has no place in a bundle",
    ),
    "linked file": (link_file, "'model/decoder.onnx' is a link"),
    "linked folder": (link_folder, "'model' is a link"),
    "linked manifest": (link_manifest, "'manifest.json' is a link"),
    "dangling link": (lambda root: (root / "gone").symlink_to("nowhere"), "'gone' is a link"),
    "pipe": (pipe, "'model/decoder.onnx' is neither a file nor a directory"),
    "pipe as manifest": (pipe_as_manifest, "'manifest.json' is neither a file nor a directory"),
    "socket": (unix_socket, "'s' is neither a file nor a directory"),
    "folders without end": (deep_folders, "more than 16 directories deep"),
    "no manifest": (lambda root: (root / MANIFEST_NAME).unlink(), "'manifest.json' cannot be opened: No such file"),
    "folder as manifest": (
        lambda root: ((root / MANIFEST_NAME).unlink(), (root / MANIFEST_NAME).mkdir()),
        "'manifest.json' is an empty directory",
    ),
    "empty manifest": (lambda root: (root / MANIFEST_NAME).write_bytes(b""), "manifest.json: Input data was truncated"),
    "no JSON": (lambda root: (root / MANIFEST_NAME).write_bytes(b"\xff\xfe{"), "manifest.json: "),
    "a list": (lambda root: (root / MANIFEST_NAME).write_text("[]"), "manifest.json: Expected `object`"),
    "nested deeply": (
        lambda root: (root / MANIFEST_NAME).write_text('{"schema": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        "manifest.json is nested too deeply",
    ),
    "huge manifest": (
        lambda root: (root / MANIFEST_NAME).write_bytes(b" " * (MAX_MANIFEST_BYTES + 1)),
        "'manifest.json' is larger than",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_bundle_is_refused(name: str, opened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with the files is said, with its place in the bundle."""
    monkeypatch.chdir(opened.parent)
    damage, words = DAMAGE[name]
    damage(opened)
    with pytest.raises(BundleError, match=words) as refusal:
        open_bundle(opened)
    assert str(opened) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def at(*where: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for step in where[:-1]:
            place = place[step]
        place[where[-1]] = value

    return change


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "newer schema": (at("schema", value=3), "schema 3 of manifest.json is unknown, this agent reads 2"),
    "schema as text": (at("schema", value="2"), "schema '2' of manifest.json is unknown"),
    "schema as truth": (at("schema", value=True), "schema True of manifest.json is unknown"),
    "no schema": (lambda document: document.pop("schema"), "schema None of manifest.json is unknown"),
    "unknown key": (at("colour", value="red"), "unknown field `colour`"),
    "unknown key inside": (at("model", "colour", value="red"), r"unknown field `colour` - at `\$.model`"),
    "missing key": (lambda document: document.pop("task"), "missing required field `task`"),
    "other id": (at("bundle_id", value="tiny-desktop-cpu-000000000000"), "but its content makes it 'tiny-desktop-cpu-"),
    "other task": (at("task", value="embedding"), "but its content makes it"),
    "other defaults": (at("generation", "temperature", value=0.5), "but its content makes it"),
    "graph not listed": (at("graphs", 0, "path", value="model/other.onnx"), "graphs names 'model/other.onnx'"),
    "tokenizer not listed": (at("tokenizer", "path", value="tokenizer"), "tokenizer names 'tokenizer'"),
    "listed twice": (lambda document: document["files"].append(document["files"][0]), "is listed twice in files"),
    "lists itself": (at("files", 0, "path", value=MANIFEST_NAME), "manifest.json cannot list itself"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_manifest_that_lies_is_refused(name: str, opened: Path) -> None:
    """A manifest that says what is not so is refused with what and where."""
    change, words = LIES[name]
    rewrite(opened, change)
    with pytest.raises(BundleError, match=words):
        open_bundle(opened)


BAD_PATHS = {
    "../secret": "leaves the bundle",
    "model/../../secret": "leaves the bundle",
    "model/..": "leaves the bundle",
    "..": "leaves the bundle",
    "/etc/passwd": "is absolute",
    "//host/share": "is absolute",
    "model\\decoder.onnx": "a backslash",
    "C:/model": "a colon",
    "model/decoder.onnx:stream": "a colon",
    "model//decoder.onnx": "is not normalized",
    "./model/decoder.onnx": "is not normalized",
    "model/./decoder.onnx": "is not normalized",
    "model/": "is not normalized",
    ".": "is not normalized",
    "": "is empty",
    "model/\x00": "a control character",
    "model/new\nline": "a control character",
}


@pytest.mark.parametrize("where", [("files", 0), ("graphs", 0), ("tokenizer",)])
@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_could_mean_something_else_is_refused(
    path: str, where: tuple[str | int, ...], opened: Path
) -> None:
    """A path that leaves the bundle, or has two spellings, is refused wherever the manifest holds it."""
    rewrite(opened, at(*where, "path", value=path))
    with pytest.raises(BundleError, match=BAD_PATHS[path]) as refusal:
        open_bundle(opened)
    assert f"in {where[0]}" in str(refusal.value)


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b.onnx", "\\", "c:", "\x00", "…"]), min_size=1).map("/".join))
def test_an_accepted_path_stays_inside(path: str) -> None:
    """Any path that is not refused resolves below the bundle, to the very text it is."""
    if path_refusal(path) is not None:
        return
    assert os.path.normpath("/bundle/" + path) == "/bundle/" + path


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_only_a_directory_is_a_bundle(kind: str, tmp_path: Path) -> None:
    """What is no directory is refused in one line that names it."""
    path = tmp_path / "nothing"
    if kind == "file":
        path.write_text("x")
    with pytest.raises(BundleError, match="nothing is no bundle"):
        open_bundle(path)


# --- writing --------------------------------------------------------------------------------------------


# A whole graph, byte for byte: ir_version 10, opset 21, and a graph that gives back what it is given.
GRAPH = bytes.fromhex("080a3a190a100a016912016f22084964656e746974791205") + b"equal" + bytes.fromhex("42021015")


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    root = tmp_path / "staging"
    for relative, text in (
        ("model/decoder.onnx", GRAPH),
        ("tokenizer/tokenizer.json", b'{"model": {"type": "WordLevel", "vocab": {}, "unk_token": ""}}'),
        ("tokenizer/chat_template.jinja", b"{{ messages }}"),
        ("report.json", b"{}"),
    ):
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        (root / relative).write_bytes(text)
    return root


@pytest.fixture
def draft(tiny_bundle: Path) -> Manifest:
    return open_bundle(tiny_bundle).manifest


def test_the_bytes_of_a_manifest(staging: Path, tmp_path: Path, draft: Manifest) -> None:
    """Golden bytes: the same content gives the same manifest, byte for byte, and so the same name."""
    write_bundle(staging, tmp_path / "out", draft)
    golden = Path(__file__).with_name("golden_manifest.json").read_bytes()
    assert (tmp_path / "out" / MANIFEST_NAME).read_bytes() == golden


def test_what_is_returned_is_what_is_read(staging: Path, tmp_path: Path, draft: Manifest) -> None:
    """`write_bundle` returns the manifest that `open_bundle` will read, report and all."""
    manifest = write_bundle(staging, tmp_path / "out", draft)
    assert open_bundle(tmp_path / "out").manifest == manifest
    assert [entry.path for entry in manifest.files] == sorted(entry.path for entry in manifest.files)
    assert "report.json" in {entry.path for entry in manifest.files}
    assert not staging.exists()


def test_the_name_depends_on_what_decides_the_answers(staging: Path, tmp_path: Path, draft: Manifest) -> None:
    """A changed report keeps the id; a changed graph, tokenizer, task or default gives another."""
    first = write_bundle(Path(shutil.copytree(staging, tmp_path / "a")), tmp_path / "first", draft)
    (staging / "report.json").write_text('{"other": 1}')
    second = write_bundle(Path(shutil.copytree(staging, tmp_path / "b")), tmp_path / "second", draft)
    assert second.bundle_id == first.bundle_id
    (staging / "model/decoder.onnx").write_bytes(GRAPH.replace(b"equal", b"other"))
    third = write_bundle(staging, tmp_path / "third", draft)
    greedier = msgspec.structs.replace(first.generation, max_tokens=1)
    others = [
        third,
        msgspec.structs.replace(first, task="embedding"),
        msgspec.structs.replace(first, generation=greedier),
    ]
    assert len({first.bundle_id, *(bundle_id(other) for other in others)}) == 4


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_an_existing_output_is_refused(kind: str, staging: Path, tmp_path: Path, draft: Manifest) -> None:
    """Nothing is overwritten, an empty directory as little as a link to nowhere."""
    output = tmp_path / "out"
    if kind == "directory":
        output.mkdir()
    elif kind == "file":
        output.write_text("x")
    else:
        output.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="exists already"):
        write_bundle(staging, output, draft)
    assert not (staging / MANIFEST_NAME).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "model/decoder.onnx").rename(root / "model/x.onnx"), "graphs names 'model/decoder.onnx'"),
        (lambda root: (root / "link").symlink_to("model"), "'link' is a link"),
        (lambda root: (root / MANIFEST_NAME).write_text("{}"), "manifest.json is written with the bundle"),
        (lambda root: (root / "model/a:b").write_text(""), "a colon"),
    ],
)
def test_a_staging_that_would_not_open_is_not_written(
    change: Callable[[Path], object], words: str, staging: Path, tmp_path: Path, draft: Manifest
) -> None:
    """What `open_bundle` would refuse is refused before anything is moved."""
    change(staging)
    with pytest.raises(BundleError, match=words):
        write_bundle(staging, tmp_path / "out", draft)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["Smol LM", "org/model", "", "-x", "ünicode"])
def test_a_name_that_is_no_name_is_refused(name: str, staging: Path, tmp_path: Path, draft: Manifest) -> None:
    """A bundle id is used in topics and file names: model and profile take plain characters only."""
    named = msgspec.structs.replace(draft, model=msgspec.structs.replace(draft.model, name=name))
    with pytest.raises(BundleError, match="letters, digits"):
        write_bundle(staging, tmp_path / "out", named)


def test_values_that_json_does_not_carry_are_refused(staging: Path, tmp_path: Path, draft: Manifest) -> None:
    """A measurement that is not a number is found when the bundle is written, not on the device."""
    broken = msgspec.structs.replace(draft, measured=msgspec.structs.replace(draft.measured, fixed_ms=float("nan")))
    with pytest.raises(BundleError, match=r"measured\.fixed_ms"):
        write_bundle(staging, tmp_path / "out", broken)


def test_everything_is_on_disk_before_the_bundle_appears(
    staging: Path, tmp_path: Path, draft: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and directory is synced, then comes the rename, then the parent is synced."""
    done: list[str] = []
    names = {os.stat(path).st_ino: path.name for path in [staging, *staging.rglob("*"), tmp_path]}
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(names.get(os.fstat(handle).st_ino, MANIFEST_NAME)), fsync(handle))
    )
    monkeypatch.setattr(os, "rename", lambda *paths: (done.append("rename"), rename(*paths)))
    write_bundle(staging, tmp_path / "out", draft)
    before = set(done[: done.index("rename")])
    assert before >= {MANIFEST_NAME, "decoder.onnx", "tokenizer.json", "report.json", "model", "tokenizer", "staging"}
    assert done[done.index("rename") + 1 :] == [tmp_path.name]


def test_a_failed_write_leaves_the_staging_as_it_was(
    staging: Path, tmp_path: Path, draft: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full, no bundle appears and the work is not lost."""

    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(BundleError, match="No space left"):
        write_bundle(staging, tmp_path / "out", draft)
    assert not (tmp_path / "out").exists()
    assert (staging / "model/decoder.onnx").exists()
    assert not (staging / MANIFEST_NAME).exists()


def test_encoding_sorts_what_has_no_order(draft: Manifest) -> None:
    """Two manifests that differ only in the order of a dict have the same bytes."""
    turned = msgspec.structs.replace(draft, precision=dict(reversed(draft.precision.items())))
    assert encode_manifest(turned) == encode_manifest(draft)


def test_each_file_is_read_once_also_with_a_signature(opened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing is what opening costs: the signature is over the hashes that are computed anyway."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1())
    sign(opened, key)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    read: list[str] = []
    describe = bundle.describe
    monkeypatch.setattr(
        bundle, "describe", lambda root, path, **more: (read.append(path), describe(root, path, **more))[1]
    )
    signed = open_bundle(opened, (trusted_key(pem, "maker.pub"),))
    assert sorted(read) == sorted(entry.path for entry in signed.manifest.files)


def test_a_downgrade_is_said_only_where_there_is_one(draft: Manifest) -> None:
    """So that agents which do not know the key read all other bundles; old manifests are read as without one."""
    assert b"downgrade_from" not in encode_manifest(draft)
    down = msgspec.structs.replace(draft, version=3, downgrade_from=5)
    payload = encode_manifest(down)
    assert msgspec.json.decode(payload, type=Manifest) == down
    assert list(json.loads(payload))[-1] == "downgrade_from"
    assert msgspec.json.decode(encode_manifest(draft), type=Manifest).downgrade_from is None
    with pytest.raises(ValueError, match="downgrade_from 2 is below version 3"):
        msgspec.structs.replace(draft, version=3, downgrade_from=2)
