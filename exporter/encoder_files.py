"""What do an encoder's outputs mean, as its checkpoint says?

Labels come from the configuration; pooling, normalization and the longest text from the files of sentence-transformers
(`modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`). A plain encoder without those files is pooled by
the mean of its tokens and not normalized, which is what sentence-transformers itself does with one.

Does not know how pooling enters the graph.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from edge_agent.manifest import EncoderInfo
from exporter.errors import SourceError
from exporter.task import FEATURES

MODULES: Final = "modules.json"
_CARRIED_MODULES: Final = frozenset({"Transformer", "Pooling", "Normalize"})
_POOLINGS: Final[dict[str, Literal["mean", "cls", "max"]]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_NO_LIMIT: Final = 1_000_000  # tokenizers without a limit of their own say 1e30


def checkpoint_file(where: str, name: str, *, local: bool) -> Path | None:
    """A file of the directory or hub id, None if it has no such file."""
    from transformers.utils.hub import cached_file

    if Path(where).is_dir():
        path = Path(where) / name
        return path if path.is_file() else None
    found = cached_file(
        where,
        name,
        local_files_only=local,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)


def has_modules(where: str, *, local: bool) -> bool:
    """Whether `where` is a checkpoint of sentence-transformers."""
    return checkpoint_file(where, MODULES, local=local) is not None


def positions_of(model: Any) -> int | None:
    """How many tokens the encoder takes: its learned positions less those before the first (RoBERTa: 514 - 2)."""
    import torch

    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] == "position_embeddings" and isinstance(module, torch.nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings) - skipped
    said = getattr(model.config, "max_position_embeddings", None)
    return said if isinstance(said, int) else None


def encoder_info(where: str, task: str, model: Any, tokenizer: Any, positions: int, *, local: bool) -> EncoderInfo:
    """What the manifest says of an encoder. Raises SourceError for poolings, modules or heads that are not carried."""
    said = (_json(where, "sentence_bert_config.json", local=local) or {}).get("max_seq_length")
    own = tokenizer.model_max_length
    longest = said if isinstance(said, int) else own if own < _NO_LIMIT else positions
    max_tokens = min(longest, positions)
    if task == FEATURES:
        pooling, normalize = _pooling(where, local=local)
        return EncoderInfo(max_tokens=max_tokens, pooling=pooling, normalize=normalize)
    labels = _labels(where, task, model.config) if task.endswith("-classification") else ()
    return EncoderInfo(max_tokens=max_tokens, labels=labels)


def _pooling(where: str, *, local: bool) -> tuple[Literal["mean", "cls", "max"], bool]:
    modules = _json(where, MODULES, local=local)
    if modules is None:
        return "mean", False
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: str(module.get("path", "")) for module in modules}
    odd = sorted(set(kinds) - _CARRIED_MODULES)
    if odd:
        raise SourceError(f"{where} ends in {', '.join(odd)}: {', '.join(sorted(_CARRIED_MODULES))} are carried")
    if "Pooling" not in kinds:
        raise SourceError(f"{where}: its {MODULES} names no pooling, so it gives no embedding of a text")
    config = _json(where, f"{kinds['Pooling']}/config.json", local=local)
    if config is None:
        raise SourceError(f"{where} lacks {kinds['Pooling']}/config.json, which says how it pools")
    modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise SourceError(
            f"{where} pools by {' and '.join(modes) or 'nothing'}: one of {', '.join(_POOLINGS)} is carried"
        )
    return _POOLINGS[modes[0]], "Normalize" in kinds


def _labels(where: str, task: str, config: Any) -> tuple[str, ...]:
    if task == "text-classification" and config.problem_type == "multi_label_classification":
        raise SourceError(f"{where} gives several labels to a text (multi_label_classification): one is carried")
    if config.num_labels < 2:
        raise SourceError(f"{where} gives {config.num_labels} score and no choice of labels: {task} needs two or more")
    return tuple(str(config.id2label[index]) for index in range(config.num_labels))


def _json(where: str, name: str, *, local: bool) -> Any:
    path = checkpoint_file(where, name, local=local)
    if path is None:
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise SourceError(f"{where}: {name} is no JSON ({error})") from None
