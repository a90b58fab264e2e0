"""How are an encoder's weights and activations quantized to int8 without calibration?

ONNX Runtime's own dynamic quantizer: each product by constants becomes MatMulInteger, with one scale for each output
channel of its weights and one for its whole input, measured anew in every run; lookups read int8 rows. Because the
input's scale is that of the whole batch, a text must run alone to give the same numbers every time.

Does not know whether the result is still truthful; `verify_encoder.py` finds out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ConversionError

if TYPE_CHECKING:
    import onnx_ir as ir


def quantize_dynamic(source: Path, target: Path) -> dict[str, str]:
    """Write the graph `source` to `target` with int8 products and lookups; returns the precision by group of tensors.

    Raises ConversionError when the graph has no product by constants, OSError.
    """
    import onnx_ir as ir
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    constant_products(ir.load(source))
    with quantizing(source, target) as quantized:
        quantize(
            source, quantized, op_types_to_quantize=["MatMul", "Gather"], per_channel=True, weight_type=QuantType.QInt8
        )
    return {"linear": "int8", "activations": "int8", "embedding": "int8", "norm": "fp32"}


def constant_products(model: ir.Model) -> list[str]:
    """Names of the MatMul nodes whose second factor is a constant matrix: the linear layers.

    Raises ConversionError if there is none.
    """
    names = [
        node.name or ""
        for node in model.graph
        if node.op_type == "MatMul" and node.inputs[1] is not None and node.inputs[1].const_value is not None
    ]
    if not names:
        raise ConversionError("the graph has no matrix multiplication with a constant weight: nothing to quantize")
    return names


@contextmanager
def quantizing(source: Path, target: Path) -> Iterator[Path]:
    """A file for ONNX Runtime's quantizers to write, which is then laid out as `target` like every other graph.

    They print and log what means nothing to our user, and write one file whose tensors lie in it; while they infer
    shapes they also write beside `source`, and clean up.
    """
    import onnx_ir as ir

    from exporter.graph_file import write_graph

    disabled = logging.root.manager.disable
    with tempfile.TemporaryDirectory(prefix=".quantizing-", dir=target.parent) as folder:
        quantized = Path(folder) / source.name
        logging.disable(logging.WARNING)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield quantized
        finally:
            logging.disable(disabled)
        write_graph(ir.load(quantized), target)
