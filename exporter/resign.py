"""How is a bundle that is there signed, or given another version, without being made again?

Its files stay as they are (by hard links where the file system has them); manifest and signature are written anew in a
directory beside it, and the two change places in one step. So whoever opens it finds the old one or the new one, whole.

Does not know how it was made, nor what signs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.bundle import Sign, open_bundle, write_bundle
from edge_agent.bundle_files import exchange
from edge_agent.bundle_paths import MANIFEST_NAME, SIGNATURE_NAME
from edge_agent.manifest import Manifest
from exporter.errors import OutputError

_WRITTEN_ANEW: Final = (MANIFEST_NAME, SIGNATURE_NAME)


def resign(path: Path, sign: Sign, *, version: int | None = None, downgrade_from: int | None = None) -> Manifest:
    """Sign the bundle in `path`, with another `version` where one is given; returns its manifest.

    What it says of `downgrade_from` goes with the version: a new version without it takes no other's place. Raises
    BundleError for what is no whole bundle, OutputError, and what `sign` raises; the bundle is then as it was.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    if version is not None:
        manifest = msgspec.structs.replace(manifest, version=version, downgrade_from=None)
    if downgrade_from is not None:
        try:
            manifest = msgspec.structs.replace(manifest, downgrade_from=downgrade_from)
        except ValueError as error:
            raise OutputError(f"{path}: {error}") from None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{bundle.path.name}-", dir=bundle.path.parent))
    except OSError as error:
        raise OutputError(f"{bundle.path.parent} cannot be written: {error.strerror or error}") from None
    try:
        staging, made = folder / "staging", folder / "bundle"
        shutil.copytree(
            bundle.path,
            staging,
            copy_function=_link,
            ignore=lambda folder, _: _WRITTEN_ANEW if Path(folder) == bundle.path else (),
        )
        manifest = write_bundle(staging, made, manifest, sign)
        exchange(made, bundle.path)
    except OSError as error:
        raise OutputError(f"{bundle.path} cannot be signed: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links, or too many of them
        shutil.copy2(source, target)
