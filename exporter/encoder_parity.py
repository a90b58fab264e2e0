"""Does an encoder's fp32 graph compute what PyTorch computes?

Asked of every conversion, with the runtime that will serve it: rows of unlike lengths, one of them as long as the model
takes, each alone and all in one padded batch. Does not know how the graph was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edge_agent.manifest import EncoderInfo, Graph
from exporter.encoder_reference import reference_outputs
from exporter.errors import ConversionError
from exporter.parity import difference

TOLERANCE: Final = 1e-3  # largest difference of any output
_LENGTHS: Final = (5, 2, 17, 48)
_LONGEST: Final = 1024  # of a model that takes more; attention over more costs minutes


def check_encoder_parity(
    model: Any, task: str, encoder: EncoderInfo, graph_path: Path, graph: Graph, *, seed: int = 0
) -> float:
    """Compare the outputs of `graph_path` with those of `model` on random ids; returns the largest difference.

    Raises ConversionError above `TOLERANCE`.
    """
    import numpy as np

    from edge_agent.runtime.encoder import Encoder

    draw = np.random.default_rng(seed)
    longest = min(encoder.max_tokens, _LONGEST)
    lengths = [*(length for length in _LENGTHS if length < longest), longest]
    rows = [draw.integers(0, model.config.vocab_size, length).tolist() for length in lengths]
    types = None
    if "token_type_ids" in graph.inputs:
        types = [draw.integers(0, model.config.type_vocab_size, length).tolist() for length in lengths]
    wanted = reference_outputs(model, task, encoder, rows, types)
    runtime = Encoder(graph_path, graph)
    batch = runtime.run(rows, types)
    differences = []
    for number, (ids, expected) in enumerate(zip(rows, wanted, strict=True)):
        alone = runtime.run([ids], None if types is None else [types[number]])
        for name, array in expected.items():
            in_batch = batch[name][number]
            in_batch = in_batch[: len(ids)] if runtime.is_per_token else in_batch
            differences += [difference(alone[name][0], array), difference(in_batch, array)]
    runtime.close()
    worst = float(np.max(differences))  # NaN if any is, unlike max()
    if not worst <= TOLERANCE:
        raise ConversionError(
            f"the graph's outputs differ from PyTorch's by {worst:.2g}, {TOLERANCE:g} is allowed: "
            f"{type(model).__name__} is not carried faithfully by this exporter"
        )
    return worst
