"""What is the checkpoint, and how is it opened?

A Hugging Face directory (safetensors), a GGUF file, or a hub id becomes a `Source`: the untouched torch model in fp32,
its tokenizer, and what the manifest says of it. Whatever is wrong with the checkpoint is one line of SourceError.

Does not know what will be done with the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from logging import getLogger
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.manifest import ModelInfo, TokenizerInfo
from exporter.errors import SourceError

_GGUF_QUANTIZATION: Final = re.compile(r"[.\-_](I?Q\d\w*|BF16|F16|F32)$", re.IGNORECASE)
_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MARK: Final = "edgefleet-mark"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An opened checkpoint. `model` is a transformers causal language model in fp32 eval mode."""

    model: Any
    tokenizer: Any
    info: ModelInfo
    vocabulary: int
    stop_ids: tuple[int, ...]

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of one user's question in the chat template, or of its plain text where there is none."""
        if not self.tokenizer.chat_template:
            return list(self.tokenizer.encode(question))
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def save_tokenizer(self, directory: Path) -> TokenizerInfo:
        """Write tokenizer.json, chat_template.jinja and generation_config.json into `directory`, named in the bundle
        as tokenizer/...; raises SourceError if the tokenizer has no portable form.
        """
        directory.mkdir(parents=True, exist_ok=True)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise SourceError(
                f"{self.info.source}: its tokenizer cannot be saved as tokenizer.json: "
                "use a model with a fast tokenizer"
            )
        backend.save(str(directory / "tokenizer.json"))
        template = self.tokenizer.chat_template
        if isinstance(template, str):
            (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
        generation = {"eos_token_id": list(self.stop_ids), "bos_token_id": self.tokenizer.bos_token_id}
        (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", "utf-8")
        return TokenizerInfo(
            path="tokenizer/tokenizer.json",
            chat_template="tokenizer/chat_template.jinja" if isinstance(template, str) else None,
            vocabulary=self.vocabulary,
            bos_token=self.tokenizer.bos_token,
            eos_token=self.tokenizer.eos_token,
        )


def open_source(where: str) -> Source:
    """Open a directory, a GGUF file or a hub id.

    Raises SourceError: no such model, truncated or incomplete weights, an architecture that is not known, weights
    that are not finite, no tokenizer.
    """
    path = Path(where)
    with _quiet():
        if path.is_file():
            model, tokenizer, licence = _from_gguf(path)
        else:
            model, tokenizer = _from_pretrained(where, path)
            licence = _licence_in_card(path / "README.md")
    _refuse_broken_weights(where, model)
    config = model.config
    context = getattr(config, "max_position_embeddings", None)
    if not isinstance(context, int) or context < 1:
        raise SourceError(f"{where}: its configuration does not say how many positions it takes")
    return Source(
        model=model,
        tokenizer=tokenizer,
        info=ModelInfo(
            name=_name(path),
            source=path.name if path.exists() else where,
            licence=licence,
            architecture=type(model).__name__,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            context_length=context,
        ),
        vocabulary=int(config.vocab_size),
        stop_ids=_stop_ids(model, tokenizer),
    )


def _from_pretrained(where: str, path: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    local = path.is_dir() or not _hub_resolves()
    if path.is_dir() and not (path / "config.json").is_file():
        raise SourceError(f"{where} is not a model directory: it has no config.json")
    if not path.is_dir() and (where.startswith((".", "/", "~")) or where.count("/") > 1 or where.endswith(".gguf")):
        raise SourceError(f"{where} does not exist: give a model directory, a .gguf file or a hub id")
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise SourceError(f"{where} holds no .safetensors file: save the model with safe serialization")
    try:
        AutoConfig.from_pretrained(where, local_files_only=local)
        model, found = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=torch.float32,
            local_files_only=local,
            use_safetensors=True,
            output_loading_info=True,
            attn_implementation="sdpa",
        )
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local)
    except Exception as error:  # transformers, safetensors and hub clients raise dozens of unrelated classes here
        raise SourceError(f"{where} cannot be opened: {_reason(error, local=path.is_dir())}") from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise SourceError(f"{where} lacks {len(missing)} weights of its architecture, the first is {missing[0]}")
    if found["mismatched_keys"]:
        raise SourceError(f"{where} has weights whose shapes its config.json does not describe")
    return model.eval(), tokenizer


def _from_gguf(path: Path) -> tuple[Any, Any, str | None]:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SourceError(f"{path} is neither a model directory nor a GGUF file")
    try:
        with _gguf_read_once():
            return _read_gguf(path)
    except SourceError:
        raise
    except Exception as error:  # the reader fails with whatever a damaged file happens to trigger
        raise SourceError(f"{path} cannot be opened: {_reason(error, local=True)}") from error


def _read_gguf(path: Path) -> tuple[Any, Any, str | None]:
    """As `from_pretrained(gguf_file=...)` does, which insists on a package (accelerate) that it then hardly uses."""
    import gguf
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    folder = str(path.parent)
    config = AutoConfig.from_pretrained(folder, gguf_file=path.name, local_files_only=True)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
    loaded = model.load_state_dict(tensors["tensors"], strict=False)
    model.tie_weights()
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    missing = sorted(set(loaded.missing_keys) - tied)
    if missing:
        raise SourceError(f"{path} lacks {len(missing)} weights of its architecture, the first is {missing[0]}")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, local_files_only=True)
    licence = gguf.GGUFReader(str(path)).fields.get("general.license")
    return model.eval(), tokenizer, None if licence is None else str(licence.contents())


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Parse a GGUF file and build its name map once: transformers does either anew for each use (25 s of 35)."""
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    before = gguf.GGUFReader, gguf.get_tensor_name_map, reading.tqdm
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(before[0]), cache(before[1])
    reading.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map, reading.tqdm = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep stderr ours: transformers prints progress bars and advice that mean nothing to our user."""
    import warnings

    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    hub = getLogger("huggingface_hub")
    hub_level = hub.level
    hub.setLevel(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            logging.enable_progress_bar()


def _hub_resolves() -> bool:
    """Whether the model hub has an address here; without one its client would retry for half a minute."""
    import socket
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _refuse_broken_weights(where: str, model: Any) -> None:
    for name, parameter in model.named_parameters():
        if not bool(parameter.detach().sum().isfinite()):  # a sum is 20 times faster than asking each
            raise SourceError(f"{where}: weight {name} holds values that are not finite: the checkpoint is damaged")


def _reason(error: Exception, *, local: bool) -> str:
    """One line out of whatever was raised; off-line is said plainly, since the client's own text is a page."""
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "not enough memory to hold it in fp32"
    text = " ".join(str(error).split()) or type(error).__name__
    if not local and any(word in text for word in ("connect", "resolve", "offline", "couldn't", "retries", "cached")):
        return "there is no such directory or file here, and the model hub cannot be reached"
    if "not covered" in text or "HeaderTooLarge" in text or "HeaderTooSmall" in text or "incomplete" in text:
        return f"a weights file is truncated or damaged ({text[:120]})"
    return text[:240]


def _stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends an answer: the configurations' eos ids, the tokenizer's, and the template's end of turn."""
    found: set[int] = set()
    for holder in (model.config, getattr(model, "generation_config", None), tokenizer):
        value = getattr(holder, "eos_token_id", None)
        found.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    found.update(_end_of_turn(tokenizer))
    return tuple(sorted(found))


def _end_of_turn(tokenizer: Any) -> list[int]:
    """The special token that the chat template puts right behind an assistant's words, if it does."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _MARK}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template may refuse any conversation with an error of its own
        return []
    after = tokenizer.encode(text.partition(_MARK)[2], add_special_tokens=False)
    return [after[0]] if after and after[0] in tokenizer.all_special_ids else []


def _name(path: Path) -> str:
    stem = path.resolve().name if path.exists() else path.name
    if path.is_file():
        stem = _GGUF_QUANTIZATION.sub("", path.stem)
    return _NOT_A_NAME.sub("-", stem).strip("-.") or "model"


def _licence_in_card(card: Path) -> str | None:
    """The `license:` line of a model card."""
    if not card.is_file():
        return None
    named = re.search(r"^license:\s*(\S+)\s*$", card.read_text("utf-8", "replace")[:4096], re.MULTILINE)
    return named.group(1) if named else None
