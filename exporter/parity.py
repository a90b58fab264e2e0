"""Does a graph compute what PyTorch computes?

Asked of every conversion, with the runtime that will serve it (or its surrogate): one prefill, and a prefill followed
by one-token steps over the cache. A graph in fp16 may differ by what rounding costs and no more: a fault in its
attention moves logits by a good part of their size. So may an fp32 graph whose model blows rounding up, as one does
that lost half its weights: what rounding costs is then measured on the model itself, against its own float64.

Does not know how the graph was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edge_agent.manifest import Graph
from exporter.errors import ConversionError

TOLERANCE: Final = 1e-3  # largest difference of any logit
# ... of fp16, relative to the largest logit: measured 0.4% on random models of two layers and 0.5% on SmolLM2
HALF_TOLERANCE: Final = 0.02
ROUNDING: Final = 4.0  # times PyTorch's own rounding: a graph rounds as often, in another order
_PROMPT_TOKENS: Final = 24
_STEPS: Final = 8


def check_parity(model: Any, graph_path: Path, graph: Graph, *, seed: int = 0, prompts: int = 2) -> float:
    """Compare the logits of `graph_path` with those of `model` on random prompts; returns the largest difference.

    Raises ConversionError above `TOLERANCE` and `ROUNDING`, or above `HALF_TOLERANCE` of the largest logit where the
    cache is fp16.
    """
    import numpy as np
    import torch

    from edge_agent.runtime.decoder import Decoder
    from exporter.surrogate import SurrogateDecoder

    length = _PROMPT_TOKENS + _STEPS
    draw = np.random.default_rng(seed)
    opened = Decoder if graph.dialect == "ort" else SurrogateDecoder
    decoder = opened(graph_path, graph, context=length)
    differences, largest = [], 0.0
    asked = [draw.integers(0, decoder.vocabulary, length).tolist() for _ in range(prompts)]
    for ids in asked:
        with torch.inference_mode():
            wanted = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        largest = max(largest, float(np.abs(wanted).max()))
        differences.append(difference(decoder.logits(ids), wanted))
        differences.append(difference(decoder.prefill(ids[:_PROMPT_TOKENS]), wanted[_PROMPT_TOKENS - 1]))
        differences.extend(
            difference(decoder.step(ids[position]), wanted[position]) for position in range(_PROMPT_TOKENS, length)
        )
    decoder.close()
    worst = float(np.max(differences))  # NaN if any is, unlike max()
    half = graph.cache is not None and graph.cache.dtype == "float16"
    allowed = HALF_TOLERANCE * largest if half else TOLERANCE
    if worst > allowed and not half:
        allowed = max(allowed, ROUNDING * rounding(model, asked))
    if not worst <= allowed:
        raise ConversionError(
            f"the graph's logits differ from PyTorch's by {worst:.2g}, {allowed:.2g} is allowed: "
            f"{type(model).__name__} is not carried faithfully by this exporter"
        )
    return worst


def rounding(model: Any, rows: list[list[int]]) -> float:
    """How far `model`'s fp32 logits for `rows` are from those that it gives in float64; it is fp32 again afterwards."""
    import torch

    ids = [torch.tensor([row]) for row in rows]
    with torch.inference_mode():
        single = [model(input_ids=one).logits[0].numpy() for one in ids]
    with torch.inference_mode(False), torch.no_grad():
        model.double()
        try:
            double = [model(input_ids=one).logits[0].numpy() for one in ids]
        finally:
            model.float()
    return max(difference(one, other) for one, other in zip(single, double, strict=True))


def difference(got: Any, wanted: Any) -> float:
    """The largest difference between two arrays of one shape; NaN where either holds one."""
    import numpy as np

    return float(np.max(np.abs(got - wanted)))
