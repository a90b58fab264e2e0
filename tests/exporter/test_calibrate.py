"""What calibration text says of a graph, measured by running it."""

from __future__ import annotations

import numpy as np

from exporter.calibrate import second_moments, sensitivity
from exporter.quantize import matrices
from tests.exporter.conftest import Exported

ROWS = tuple(tuple(np.random.default_rng(seed).integers(0, 256, 48).tolist()) for seed in range(3))


def test_second_moments_are_those_of_the_torch_layer(tiny_llama: Exported) -> None:
    """E[x x^T] of a layer's inputs is what a hook on PyTorch's layer sees."""
    import onnx_ir as ir
    import torch

    seen: list[torch.Tensor] = []
    down = tiny_llama.model.model.layers[1].mlp.down_proj
    handle = down.register_forward_hook(lambda module, args, output: seen.append(args[0][0]))
    with torch.inference_mode():
        for row in ROWS:
            tiny_llama.model(input_ids=torch.tensor([row]))
    handle.remove()
    inputs = torch.cat(seen).numpy()
    (fed,) = [one.inputs[0] for one in matrices(ir.load(tiny_llama.path)).values()
              if one.rows.shape == (64, 96) and np.array_equal(one.rows, down.weight.detach().numpy())]  # fmt: skip
    found = second_moments(tiny_llama.path, tiny_llama.graph, [fed, fed], ROWS)
    assert np.allclose(found[fed], inputs.T @ inputs / len(inputs), rtol=1e-3, atol=1e-5)
    assert not list(tiny_llama.path.parent.glob(".calibrate*"))


def test_what_is_not_moved_costs_nothing_and_more_costs_more(tiny_llama: Exported) -> None:
    """Weights replaced by themselves move no output; the larger the change, the larger the divergence."""
    import onnx_ir as ir

    found = matrices(ir.load(tiny_llama.path))
    name = next(name for name, one in found.items() if one.transposed)
    weight = np.ascontiguousarray(found[name].rows.T)
    noise = np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32)
    costs = sensitivity(
        tiny_llama.path, tiny_llama.graph,
        {part: {name: lambda size=size: weight + size * noise} for part, size in
         {"none": 0.0, "little": 0.01, "much": 0.1}.items()},
        ROWS,
    )  # fmt: skip
    assert costs["none"] < 1e-9
    assert 0 < costs["little"] < costs["much"]
