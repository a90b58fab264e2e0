"""How does a graph become two files on disk: the graph, and one data file that holds each tensor once?

Tensors that share memory (a head tied to its embedding, in whatever shape each wants it) point to the same bytes of the
data file. The bytes written depend on the graph alone, so the same export gives the same hashes.

Does not know what is in the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_INLINE_BYTES: Final = 1024  # small tensors stay in the graph, where shape inference can read them
_ALIGNMENT: Final = 4096  # so that the runtime can map a tensor instead of reading it


def write_graph(model: ir.Model, path: Path) -> int:
    """Write `model` to `path` and its tensors to `path` + '.data'; returns the bytes of both files.

    `model` then refers to the written file. Raises OSError.
    """
    import numpy as np
    import onnx_ir as ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    data_path = path.with_name(path.name + ".data")
    written: dict[tuple[int, int], int] = {}
    alive: list[np.ndarray] = []  # an address identifies a tensor only while nothing else can take it
    with data_path.open("wb") as data:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= _INLINE_BYTES:
                continue
            array = _bytes_of(tensor)
            key = (array.__array_interface__["data"][0], array.nbytes)
            if key not in written or not array.flags.c_contiguous:
                data.write(b"\0" * (-data.tell() % _ALIGNMENT))
                written[key] = data.tell()
                data.write(np.ascontiguousarray(array).data.cast("B"))
                alive.append(array)
            value.const_value = ir.ExternalTensor(
                data_path.name, written[key], array.nbytes, tensor.dtype,
                shape=tensor.shape, name=value.name or "", base_dir=path.parent,
            )  # fmt: skip
    ir.save(model, path)
    return path.stat().st_size + data_path.stat().st_size


def _bytes_of(tensor: ir.TensorProtocol) -> np.ndarray:
    """The tensor's elements, or its bytes where two elements share one: numpy would give each a byte of its own."""
    import numpy as np

    return np.frombuffer(tensor.tobytes(), np.uint8) if tensor.dtype.bitwidth < 8 else tensor.numpy()
