"""Rows of unlike length are one batch, and give what each gives alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_agent.errors import BundleError
from edge_agent.runtime.encoder import Encoder
from tests.edge_agent.encoder_bundles import build_encoder

ROWS = {"good": (1.0, 0.0), "bad": (0.0, 1.0)}
GOOD, BAD = 4, 5


def test_padding_changes_nothing(tmp_path: Path) -> None:
    """A short row in a batch gives what it gives alone."""
    path = tmp_path / "encoder.onnx"
    encoder = Encoder(path, build_encoder(path, "feature-extraction", ROWS), threads=1)
    rows = [[GOOD, BAD, BAD, BAD], [GOOD], [BAD, GOOD]]
    batch = encoder.run(rows)["embedding"]
    np.testing.assert_allclose(batch, [[0.25, 0.75], [1, 0], [0.5, 0.5]])
    for row, vector in zip(rows, batch, strict=True):
        np.testing.assert_array_equal(encoder.run([row])["embedding"][0], vector)
    assert (encoder.is_per_token, encoder.threads) == (False, 1)
    encoder.close()


@pytest.mark.parametrize("types", [True, False])
def test_outputs_come_by_name(types: bool, tmp_path: Path) -> None:
    """Both outputs of question answering, one number a token; token types are given where the graph takes them."""
    path = tmp_path / "encoder.onnx"
    encoder = Encoder(path, build_encoder(path, "question-answering", ROWS, types=types), threads=1)
    values = encoder.run([[GOOD, BAD]], [[0, 1]])
    assert values["start_logits"].tolist() == [[1.0, 0.0]]
    assert values["end_logits"].tolist() == [[0.0, 1.0]]
    assert encoder.is_per_token


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_rows_without_tokens_are_refused(rows: list[list[int]], tmp_path: Path) -> None:
    """No row, or an empty one, is the caller's mistake."""
    path = tmp_path / "encoder.onnx"
    with pytest.raises(ValueError, match="each row needs at least one"):
        Encoder(path, build_encoder(path, "feature-extraction", ROWS), threads=1).run(rows)


def test_a_graph_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    """The manifest says token types, the graph takes none."""
    path = tmp_path / "encoder.onnx"
    graph = build_encoder(path, "feature-extraction", ROWS, types=False)
    said = msgspec.structs.replace(graph, inputs=(*graph.inputs, "token_type_ids"))
    with pytest.raises(BundleError, match="inputs of graph and manifest differ in token_type_ids"):
        Encoder(path, said, threads=1)
