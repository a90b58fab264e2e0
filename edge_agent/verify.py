"""What does `edge-agent verify` say of a bundle: that it is whole, and who signed it?

Opens bundles by `bundle.py`; knows nothing of terminals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edge_agent.bundle import open_bundle
from edge_agent.bundle_files import read_whole
from edge_agent.bundle_paths import MAX_SIGNATURE_BYTES, SIGNATURE_NAME
from edge_agent.signature import Signer, TrustedKey, claimed_hint


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that may be opened. The fields are what `--json` prints.

    `signature` is `verified` by the key that `signer` names; `unchecked` where no key was given: then `claimed_key` is
    the hint that the signature bears (SHA-256 of a PEM), which anybody could have written.
    """

    bundle_id: str
    version: int
    files: int
    bytes: int
    signature: Literal["none", "unchecked", "verified"]
    signer: Signer | None = None
    claimed_key: str | None = None

    @property
    def line(self) -> str:
        """For a reader."""
        who = "not signed"
        if self.signer is not None:
            who = f"signed by {self.signer.key}, SHA-256 {self.signer.fingerprint}"
        elif self.claimed_key is not None:
            who = f"signed, it claims by the key {self.claimed_key}: not checked, give --trust KEY"
        size = f"{self.files} files, {self.bytes / 1e6:.1f} MB, all as the manifest says"
        return f"{self.bundle_id} version {self.version}: {size}; {who}"


def verify_bundle(path: Path, trust: Sequence[TrustedKey]) -> Verified:
    """Check everything that there is to check. Raises what `open_bundle` raises."""
    bundle = open_bundle(path, trust)
    hint = None
    if bundle.signer is None and (bundle.path / SIGNATURE_NAME).exists():
        hint = claimed_hint(read_whole(bundle.path, SIGNATURE_NAME, MAX_SIGNATURE_BYTES))
    return Verified(
        bundle_id=bundle.manifest.bundle_id,
        version=bundle.manifest.version,
        files=len(bundle.manifest.files),
        bytes=sum(entry.bytes for entry in bundle.manifest.files),
        signature="verified" if bundle.signer is not None else "none" if hint is None else "unchecked",
        signer=bundle.signer,
        claimed_key=hint,
    )
