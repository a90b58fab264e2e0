"""What a manifest must not say; more of it is tried in tests/edge_agent/hostile_bundles.py."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_agent.bundle import open_bundle
from edge_agent.manifest import Manifest, Sample
from edge_agent.manifest_check import manifest_refusal


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    return open_bundle(tiny_bundle).manifest


def test_a_whole_manifest_is_believed(manifest: Manifest) -> None:
    """Also one whose samples hold text of any kind."""
    assert manifest_refusal(manifest) is None
    spoken = msgspec.structs.replace(manifest, samples=(Sample(prompt="a\nb\x1b[31m\u202e"),))
    assert manifest_refusal(spoken) is None


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "a\u202eb", "\x7f", "\x85"])
def test_text_that_a_terminal_obeys_is_refused(text: str, manifest: Manifest) -> None:
    """Wherever `edge-agent inspect` would print it, in keys too."""
    for changed in (
        msgspec.structs.replace(manifest, task=text),
        msgspec.structs.replace(manifest, model=msgspec.structs.replace(manifest.model, source=text)),
        msgspec.structs.replace(manifest, precision={text: "fp32"}),
    ):
        assert "terminals do not show" in (manifest_refusal(changed) or "")


def test_letters_of_all_languages_are_text(manifest: Manifest) -> None:
    """Only what steers is refused."""
    assert manifest_refusal(msgspec.structs.replace(manifest, task="größer, 東京, مرحبا")) is None
