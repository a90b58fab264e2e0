"""The schema of manifest.json: what it refuses, and its bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.bundle import encode_manifest, open_bundle
from edge_agent.manifest import Manifest


@pytest.fixture
def said(tiny_bundle: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((tiny_bundle / "manifest.json").read_bytes())
    return document


def decode(document: dict[str, Any]) -> Manifest:
    return msgspec.json.decode(json.dumps(document), type=Manifest)


def test_a_manifest_survives_its_bytes(tiny_bundle: Path) -> None:
    """Decoding the bytes of a manifest gives the manifest, and encoding that gives the bytes."""
    manifest = open_bundle(tiny_bundle).manifest
    payload = encode_manifest(manifest)
    assert msgspec.json.decode(payload, type=Manifest) == manifest
    assert payload == (tiny_bundle / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("schema",), 1),
        (("version",), 0),
        (("surprise",), True),
        (("model", "surprise"), True),
        (("model", "context_length"), 0),
        (("model", "name"), None),
        (("graphs", 0, "dialect"), "tflite"),
        (("graphs", 0, "cache", "layers"), 0),
        (("graphs", 0, "cache", "dtype"), "int8"),
        (("generation", "temperature"), -1),
        (("generation", "max_tokens"), 0),
        (("generation", "top_p"), 0),
        (("files", 0, "bytes"), -1),
        (("files", 0, "sha256"), "0" * 63),
        (("files", 0, "sha256"), "G" * 64),
        (("measured", "fixed_ms"), "fast"),
    ],
)
def test_a_wrong_field_is_refused(said: dict[str, Any], where: tuple[str | int, ...], value: object) -> None:
    """An unknown key, a wrong type or an impossible value is refused, wherever it stands."""
    decode(said)
    place: Any = said
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    with pytest.raises(msgspec.ValidationError):
        decode(said)
