"""How does a GGUF file become a torch model in fp32 with its tokenizer?

The tensors' names and configuration are transformers' business; here they are read without holding all weights twice,
and whatever is wrong with the file is one line of SourceError.

Does not know what will be done with the model, nor anything of a file's own quantization but how to undo it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from exporter.errors import SourceError


class _Truncated(Exception):
    """The file ends before a part that its header announces."""


def read_gguf(path: Path) -> tuple[Any, Any, str | None]:
    """(causal language model in fp32 eval mode, tokenizer, licence or None).

    Raises SourceError: not a GGUF file, truncated, of an architecture that transformers does not know, or damaged.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SourceError(f"{path} is neither a model directory nor a GGUF file")
    try:
        with _read_once():
            return _read(path)
    except SourceError:
        raise
    except _Truncated as error:
        raise SourceError(f"{path} is truncated or damaged: {error}") from None
    except MemoryError as error:
        raise SourceError(f"{path}: not enough memory to hold its weights in fp32") from error
    except Exception as error:  # the reader fails with whatever a damaged file happens to trigger
        text = " ".join(str(error).split())[:240] or type(error).__name__
        raise SourceError(f"{path} cannot be opened: {text}") from error


def _read(path: Path) -> tuple[Any, Any, str | None]:
    """As `from_pretrained(gguf_file=...)` does, which insists on a package (accelerate) that it then hardly uses."""
    import gguf
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.initialization import no_init_weights
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    reader = gguf.GGUFReader(str(path))
    _refuse_unknown(path, reader)
    folder = str(path.parent)
    config = AutoConfig.from_pretrained(folder, gguf_file=path.name, local_files_only=True)
    with no_init_weights():  # pages that nothing writes to take no memory: the file's tensors replace them below
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
    loaded = model.load_state_dict(tensors["tensors"], strict=False, assign=True)
    model.tie_weights()
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    missing = sorted(set(loaded.missing_keys) - tied)
    if missing:
        raise SourceError(f"{path} lacks {len(missing)} weights of its architecture, the first is {missing[0]}")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, local_files_only=True)
    licence = reader.fields.get("general.license")
    return model.eval(), tokenizer, None if licence is None else str(licence.contents())


def _refuse_unknown(path: Path, reader: Any) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    field = reader.fields.get("general.architecture")
    name = None if field is None else str(field.contents())
    known = {one.replace("-", "").replace("_", "") for one in GGUF_SUPPORTED_ARCHITECTURES}
    if name is None or name.replace("-", "").replace("_", "") not in known:
        raise SourceError(f"{path} holds a model of architecture {name!r}, which this exporter does not know")


@contextmanager
def _read_once() -> Iterator[None]:
    """Parse a GGUF file and build its name map once: transformers does either anew for each use (25 s of 35).

    The reader also says when the file ends too early, where the package's own fails over a shape.
    """
    import gguf
    import numpy as np
    from transformers import modeling_gguf_pytorch_utils as reading

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            end = int(offset) + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise _Truncated(f"it has {len(self.data)} bytes, and a part of it ends at byte {end}")
            return super()._get(offset, dtype, count, override_order)

    before = gguf.GGUFReader, gguf.get_tensor_name_map, reading.tqdm
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(Reader), cache(before[1])
    reading.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map, reading.tqdm = before
