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
from typing import Any, Final, NamedTuple

from exporter.errors import SourceError

_FOUR_BITS: Final = ("Q4_0", "Q4_1", "Q4_K")  # whose codes lie on a grid in each block


class _Truncated(Exception):
    """The file ends before a part that its header announces."""


class Read(NamedTuple):
    """A causal language model in fp32 eval mode. `in_four_bits`: most of its weights were stored so, on grids."""

    model: Any
    tokenizer: Any
    licence: str | None
    in_four_bits: bool


def read_gguf(path: Path) -> Read:
    """The model in `path`.

    Raises SourceError: not a GGUF file, truncated, of an architecture that transformers does not know, damaged, or with
    something that would be lost on the way.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise SourceError(f"{path} is neither a model directory nor a GGUF file")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
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


def _read(path: Path) -> Read:
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
    _keep_what_would_be_lost(path, reader, config)
    with no_init_weights():  # pages that nothing writes to take no memory: the file's tensors replace them below
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
    _refuse_left_over(path, reader, len(tensors["tensors"]))
    loaded = model.load_state_dict(tensors["tensors"], strict=False, assign=True)
    model.tie_weights()
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    missing = sorted(set(loaded.missing_keys) - tied)
    if missing:
        raise SourceError(f"{path} lacks {len(missing)} weights of its architecture, the first is {missing[0]}")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, local_files_only=True)
    licence = reader.fields.get("general.license")
    said = None if licence is None else str(licence.contents())
    return Read(model.eval(), tokenizer, said, in_four_bits=_is_in_four_bits(reader))


def _is_in_four_bits(reader: Any) -> bool:
    sizes = {True: 0, False: 0}
    for tensor in reader.tensors:
        sizes[tensor.tensor_type.name in _FOUR_BITS] += int(tensor.n_elements)
    return sizes[True] > sizes[False]


def _refuse_unknown(path: Path, reader: Any) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    field = reader.fields.get("general.architecture")
    name = None if field is None else str(field.contents())
    known = {one.replace("-", "").replace("_", "") for one in GGUF_SUPPORTED_ARCHITECTURES}
    if name is None or name.replace("-", "").replace("_", "") not in known:
        raise SourceError(f"{path} holds a model of architecture {name!r}, which this exporter does not know")


def _keep_what_would_be_lost(path: Path, reader: Any, config: Any) -> None:
    """transformers reads a part of the metadata. Of the rest, a sliding window is taken over here, and positions that
    are rotated in another way than the model would rotate them are refused: it would compute something else.
    """
    architecture = str(reader.fields["general.architecture"].contents())

    def said(name: str, otherwise: Any) -> Any:
        field = reader.fields.get(f"{architecture}.{name}")
        return otherwise if field is None else field.contents()

    window = said("attention.sliding_window", None)
    if window and getattr(config, "sliding_window", 0) is None:
        config.sliding_window = int(window)
    scaling = said("rope.scaling.type", "none")
    scaled = next((one.name for one in reader.tensors if one.name.startswith(("rope_freqs", "rope_factors"))), None)
    if scaling != "none" or scaled is not None or said("rope.scaling.factor", 1.0) != 1.0:
        raise SourceError(
            f"{path} scales its rotary positions ({scaled or scaling}), which is not read from a GGUF file: "
            "export the model from its Hugging Face directory"
        )
    base, known = said("rope.freq_base", None), _rotary_bases(config)
    if base is not None and known and not any(abs(base - one) <= 1e-6 * base for one in known):
        raise SourceError(f"{path} rotates positions by base {base:g}, its model would by {known[0]:g}")
    width = said("rope.dimension_count", None)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    part = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    if width is not None and known and int(width) != int(head * part):
        raise SourceError(f"{path} rotates {width} numbers of a head, its model would rotate {int(head * part)}")


def _rotary_bases(config: Any) -> list[float]:
    """Each base that the configuration names; several where layers differ."""
    told = getattr(config, "rope_parameters", None) or {}
    kinds = [told, *(one for one in told.values() if isinstance(one, dict))]
    return [float(one["rope_theta"]) for one in kinds if one.get("rope_theta") is not None]


def _refuse_left_over(path: Path, reader: Any, read: int) -> None:
    """A tensor that the architecture has no place for was made for something: experts apart, which become one."""
    names = [one.name for one in reader.tensors]
    if read < len(names) and not any("_exps" in name for name in names):
        raise SourceError(f"{path} has {len(names)} tensors, of which its architecture takes {read} only")


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
