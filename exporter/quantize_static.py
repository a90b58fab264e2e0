"""How are an encoder's weights and activations quantized to int8 with ranges from calibration text?

ONNX Runtime's own static quantizer writes QuantizeLinear and DequantizeLinear around the linear layers' inputs and
weights, both symmetric, as TensorRT reads them (TensorRT developer guide, Explicit Quantization): one scale for each
output channel of the weights, one for the whole input, fixed from what calibration texts gave. Ranges are the extremes
(`minmax`), what loses the least information (`entropy`, Migacz, 8-bit Inference with TensorRT, 2017), or 99.999% of all
values (`percentile`).

Does not know whether the result is still truthful; `verify_encoder.py` finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from exporter.errors import CalibrationError
from exporter.quantize_dynamic import constant_products, quantizing

if TYPE_CHECKING:
    import numpy as np

Method = Literal["minmax", "entropy", "percentile"]
METHODS: Final = ("minmax", "entropy", "percentile")


def quantize_static(
    source: Path, target: Path, batches: Sequence[dict[str, np.ndarray]], *, method: Method
) -> dict[str, str]:
    """Write the graph `source` to `target` with int8 linear layers; returns the precision by group of tensors.

    `batches` are inputs of the graph by name; padding would count as text, so each is best one text.
    Raises CalibrationError without batches, ConversionError when the graph has no product by constants, OSError.
    """
    import onnx_ir as ir
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    if not batches:
        raise CalibrationError("static int8 needs calibration text and got none: add rows to --calibration")
    nodes = constant_products(ir.load(source))
    methods = (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile)
    with quantizing(source, target) as quantized:
        quantize(
            source,
            quantized,
            _reader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=dict(zip(METHODS, methods, strict=True))[method],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "CalibStridedMinMax": 1,  # collect after each batch: the histograms take batches of one shape at a time
                "OpTypesToExcludeOutputQuantization": ["MatMul"],  # a sum that is rounded twice gains nothing
            },
        )
    return {"linear": "int8", "activations": "int8", "embedding": "fp32", "norm": "fp32"}


def _reader(batches: Sequence[dict[str, np.ndarray]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the batches of its range, then None."""

        def __init__(self) -> None:
            self._left = iter(batches)

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left = iter(batches[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    return Reader()
