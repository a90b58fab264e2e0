"""Writes, opens and verifies bundles: a directory whose every byte `manifest.json` answers for.

A bundle is opened whole or refused, and the refusal says what is wrong and where. It is looked at from the outside in,
so that no byte reaches a parser before what is around it was found good: names, kinds and sizes of files
(`bundle_files.py`), the manifest, the signature where one is asked for (`signature.py`), every hash, and then the
graphs and the tokenizer (`graph_check.py`, `tokenizer_check.py`). All of that is ours; other people's parsers come
after `open_bundle`. Two readers of the same bytes agree on its name, because the name holds a hash of what decides the
answers (graphs, tokenizer, task, generation defaults).

Knows nothing of what graphs and tokenizers mean: `runtime/` and `tokenizer.py` do.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.bundle_files import describe, directory, listing, put_in_place, read_whole
from edge_agent.bundle_paths import MANIFEST_NAME, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE_NAME
from edge_agent.errors import BundleError
from edge_agent.graph_check import check_graph
from edge_agent.manifest import SCHEMA, BundleFile, Manifest
from edge_agent.manifest_check import manifest_refusal
from edge_agent.signature import Signer, TrustedKey, verify_signature
from edge_agent.tokenizer_check import check_tokenizer

Sign = Callable[[str, Mapping[str, str]], bytes]  # name of the bundle, SHA-256 by path -> the bytes of `model.sig`

_HASHED: Final = ("model/", "tokenizer/")
_UNHASHED: Final = frozenset((MANIFEST_NAME, SIGNATURE_NAME))
_NAMED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_NO_DOWNGRADE: Final = b',"downgrade_from":null}'


class Bundle(msgspec.Struct, frozen=True):
    """A directory that was verified against its manifest. `path` is absolute and resolved.

    `signer` is None where no signature was asked for: that there is one proves nothing until it is verified.
    """

    path: Path
    manifest: Manifest
    signer: Signer | None = None

    def file(self, relative: str) -> Path:
        """The absolute path of a file that the manifest lists. Raises BundleError if it does not."""
        if all(entry.path != relative for entry in self.manifest.files):
            raise BundleError(f"{self.path}: {relative!r} is no file of this bundle")
        return self.path / relative


def open_bundle(path: Path, trust: Sequence[TrustedKey] = ()) -> Bundle:
    """Open and verify the bundle in the directory `path`, signed by one of the keys in `trust` if there are any.

    The directory itself may be reached through a link (`current -> v3`); nothing inside may be one.
    Raises BundleError: no directory, schema, unknown key, path, link, missing or extra file, size, signature, hash, id,
    graph, tokenizer. RuntimeUnavailable where `trust` needs a package that is not installed.
    """
    root = directory(path)
    found = listing(root)
    payload = read_whole(root, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    manifest = _decode(root, payload)
    _check_manifest(root, manifest)
    _check_listing(root, manifest, found)
    signer = _signer(root, manifest, payload, found, trust) if trust else None
    for entry in manifest.files:
        _check_file(root, entry)
    _check_id(root, manifest)
    _check_content(root, manifest)
    return Bundle(root, manifest, signer)


def write_bundle(staging: Path, output: Path, draft: Manifest, sign: Sign | None = None) -> Manifest:
    """Turn the directory `staging` into the bundle `output`, and return the manifest that was written.

    Every file in `staging` (which must lie on the same file system as `output`) is hashed and listed;
    `bundle_id` and `files` of `draft` are computed anew; `sign` makes its signature. Everything is on disk before the
    one rename that makes the bundle visible, so a power cut leaves the whole bundle or none. Raises BundleError, and
    what `sign` raises, and then leaves `staging` as it was.
    """
    root = directory(staging)
    if os.path.lexists(output):
        raise BundleError(f"{output} exists already: choose another output, or remove it first")
    for reserved in sorted(_UNHASHED):
        if os.path.lexists(root / reserved):
            raise BundleError(f"{root}: {reserved} is written with the bundle and must not be staged")
    files = tuple(describe(root, relative) for relative in listing(root))
    manifest = msgspec.structs.replace(draft, schema=SCHEMA, files=files)
    manifest = msgspec.structs.replace(manifest, bundle_id=bundle_id(manifest))
    payload = encode_manifest(manifest)
    manifest = _decode(root, payload)  # what the device will read, and proof that it can
    _check_manifest(root, manifest)
    _check_content(root, manifest)
    payloads = {MANIFEST_NAME: payload}
    if sign is not None:
        payloads[SIGNATURE_NAME] = sign(manifest.bundle_id, _hashes(manifest, payload))
    put_in_place(root, output, payloads)
    return manifest


def staged_id(staging: Path, draft: Manifest) -> str:
    """The id that `write_bundle` will give to what is staged now; only `model/` and `tokenizer/` decide it.

    So a report inside the bundle can name the bundle. Raises BundleError.
    """
    root = directory(staging)
    files = (describe(root, path) for path in listing(root) if path.startswith(_HASHED))
    return bundle_id(msgspec.structs.replace(draft, files=tuple(files)))


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: fields in the order of the schema, other keys sorted, indented by two.

    `downgrade_from` is left out where it is None: agents that do not know the key refuse it.
    """
    payload = msgspec.json.encode(manifest, order="deterministic")
    if manifest.downgrade_from is None:
        payload = payload.removesuffix(_NO_DOWNGRADE) + b"}"
    return msgspec.json.format(payload, indent=2) + b"\n"


def content_hash(manifest: Manifest) -> str:
    """Hex SHA-256 of what decides the answers.

    That is the compact JSON of `[files, task, generation]`, where files are the sorted `[path, sha256]` of
    `model/` and `tokenizer/`, and generation is the manifest's with its keys in the order of the schema.
    """
    hashed = sorted((entry.path, entry.sha256) for entry in manifest.files if entry.path.startswith(_HASHED))
    said = msgspec.json.encode([hashed, manifest.task, manifest.generation], order="deterministic")
    return hashlib.sha256(said).hexdigest()


def bundle_id(manifest: Manifest) -> str:
    """`<model>-<profile>-<12 hex of the content hash>`. Raises BundleError if that would be no plain name."""
    name = f"{manifest.model.name}-{manifest.profile}-{content_hash(manifest)[:12]}"
    if not _NAMED.match(name):
        raise BundleError(f"bundle id {name!r}: model and profile names take letters, digits, '.', '_' and '-' only")
    return name


# --- the manifest ---------------------------------------------------------------------------------------


class _SchemaProbe(msgspec.Struct):
    schema: Any = None


def _decode(root: Path, payload: bytes) -> Manifest:
    if len(payload) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{root}: {MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        schema = msgspec.json.decode(payload, type=_SchemaProbe).schema
        if isinstance(schema, bool) or schema != SCHEMA:
            raise BundleError(
                f"{root}: schema {schema!r} of {MANIFEST_NAME} is unknown, this agent reads {SCHEMA}: "
                "export the model again, or install the edgefleet that wrote it"
            )
        return msgspec.json.decode(payload, type=Manifest)
    except RecursionError:
        raise BundleError(f"{root}: {MANIFEST_NAME} is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{root}: {MANIFEST_NAME}: {error}") from None


def _check_id(root: Path, manifest: Manifest) -> None:
    computed = bundle_id(manifest)
    if computed != manifest.bundle_id:
        raise BundleError(f"{root}: bundle_id is {manifest.bundle_id!r}, but its content makes it {computed!r}")


def _check_manifest(root: Path, manifest: Manifest) -> None:
    if (why := manifest_refusal(manifest)) is not None:
        raise BundleError(f"{root}: {why}")


# --- files ----------------------------------------------------------------------------------------------


def _check_listing(root: Path, manifest: Manifest, found: Mapping[str, int]) -> None:
    listed = {entry.path for entry in manifest.files}
    if extra := sorted(found.keys() - listed - _UNHASHED):
        raise BundleError(f"{root}: {extra[0]!r} is not listed in {MANIFEST_NAME}")
    if missing := sorted(listed - found.keys()):
        raise BundleError(f"{root}: {missing[0]!r} is listed in {MANIFEST_NAME}, but missing")


def _hashes(manifest: Manifest, payload: bytes) -> dict[str, str]:
    """SHA-256 by path of all that is signed: every file, and the manifest itself."""
    return {MANIFEST_NAME: hashlib.sha256(payload).hexdigest(), **{one.path: one.sha256 for one in manifest.files}}


def _signer(
    root: Path, manifest: Manifest, payload: bytes, found: Mapping[str, int], trust: Sequence[TrustedKey]
) -> Signer:
    if SIGNATURE_NAME not in found:
        raise BundleError(
            f"{root} is not signed: there is no {SIGNATURE_NAME}. Sign it by `edge-export --bundle ... --sign KEY`"
        )
    try:
        return verify_signature(
            read_whole(root, SIGNATURE_NAME, MAX_SIGNATURE_BYTES), _hashes(manifest, payload), trust
        )
    except BundleError as error:
        raise BundleError(f"{root}: {error}") from None


def _check_file(root: Path, entry: BundleFile) -> None:
    found = describe(root, entry.path, expected_bytes=entry.bytes)
    if found.sha256 != entry.sha256:
        raise BundleError(
            f"{root}: {entry.path!r} has SHA-256 {found.sha256}, the manifest says {entry.sha256}: "
            "copy the bundle again"
        )


def _check_content(root: Path, manifest: Manifest) -> None:
    """What other people's parsers will read, looked at by ours before."""
    sizes = {entry.path: entry.bytes for entry in manifest.files}
    for path in dict.fromkeys(graph.path for graph in manifest.graphs):
        check_graph(root / path, path, sizes)
    check_tokenizer(root / manifest.tokenizer.path)
