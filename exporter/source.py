"""What is the checkpoint, and how is it opened?

A Hugging Face directory (safetensors, or pickle where allowed), a GGUF file (`gguf_file.py`), or a hub id becomes a
`Source`: the untouched torch model in fp32, its tokenizer, and what the manifest says of it. Whatever is wrong with the
checkpoint is one line of SourceError.

Does not know what will be done with the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.manifest import EncoderInfo, ModelInfo, TokenizerInfo
from exporter.encoder_files import checkpoint_file, encoder_info, has_modules, positions_of
from exporter.errors import SourceError
from exporter.gguf_file import read_gguf
from exporter.task import FEATURES, GENERATION, model_class, resolve_task

_GGUF_QUANTIZATION: Final = re.compile(r"[.\-_](I?Q\d\w*|BF16|F16|F32)$", re.IGNORECASE)
_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MARK: Final = "edgefleet-mark"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An opened checkpoint: `model` is a transformers model in fp32 eval mode, made for `task`.

    Encoders have `encoder` and no `stop_ids`; decoders have neither labels nor pooling. `in_four_bits` tells that the
    checkpoint is a GGUF file whose weights were quantized to 4 bits before.
    """

    model: Any
    tokenizer: Any
    info: ModelInfo
    vocabulary: int
    stop_ids: tuple[int, ...]
    task: str = GENERATION
    encoder: EncoderInfo | None = None
    in_four_bits: bool = False

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of one user's question in the chat template, or of its plain text where there is none."""
        if not self.tokenizer.chat_template:
            return list(self.tokenizer.encode(question))
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def save_tokenizer(self, directory: Path) -> TokenizerInfo:
        """Write tokenizer.json and, for decoders, chat_template.jinja and generation_config.json into `directory`,
        named in the bundle as tokenizer/...; raises SourceError if the tokenizer has no portable form.

        Padding and truncation that the file may set (MiniLM's: always 128 tokens) are left out: the manifest says what
        the model takes.
        """
        directory.mkdir(parents=True, exist_ok=True)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise SourceError(
                f"{self.info.source}: its tokenizer cannot be saved as tokenizer.json: "
                "use a model with a fast tokenizer"
            )
        backend.no_padding()
        backend.no_truncation()
        backend.save(str(directory / "tokenizer.json"))
        template = self.tokenizer.chat_template if self.encoder is None else None
        if isinstance(template, str):
            (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
        if self.encoder is None:
            generation = {"eos_token_id": list(self.stop_ids), "bos_token_id": self.tokenizer.bos_token_id}
            (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", "utf-8")
        return TokenizerInfo(
            path="tokenizer/tokenizer.json",
            chat_template="tokenizer/chat_template.jinja" if isinstance(template, str) else None,
            vocabulary=self.vocabulary,
            bos_token=self.tokenizer.bos_token,
            eos_token=self.tokenizer.eos_token,
        )


def open_source(where: str, *, task: str = "auto", allow_pickle: bool = False) -> Source:
    """Open a directory, a GGUF file or a hub id for `task`, one of `exporter.task.TASKS` or "auto".

    "auto" takes the task that the checkpoint was saved for. A plain encoder without the files of sentence-transformers
    is for feature extraction by the mean of its tokens, not normalized. Weights in pickle files are loaded with
    `allow_pickle` only, and then with `weights_only` all the same.

    Raises SourceError: no such model, truncated or incomplete weights, an architecture that is not known, a task that
    the checkpoint cannot do, weights that are not finite, no tokenizer.
    """
    path = Path(where)
    with _quiet():
        if path.is_file():
            if task not in ("auto", GENERATION):
                raise SourceError(f"{where} is a GGUF file, which is opened for {GENERATION}, not for {task}")
            model, tokenizer, licence, in_four_bits = read_gguf(path)
            task, encoder = GENERATION, None
        else:
            local = path.is_dir() or not _hub_resolves()
            model, tokenizer, task, encoder = _from_pretrained(where, task, local=local, allow_pickle=allow_pickle)
            licence = _licence_in_card(checkpoint_file(where, "README.md", local=local))
            in_four_bits = False
    _refuse_broken_weights(where, model)
    if encoder is None:
        _settle_template(where, tokenizer)
    return Source(
        model=model,
        tokenizer=tokenizer,
        info=ModelInfo(
            name=_name(path),
            source=path.name if path.exists() else where,
            licence=licence,
            architecture=type(model).__name__,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            context_length=_positions(where, model),
        ),
        vocabulary=int(model.config.vocab_size),
        stop_ids=_stop_ids(model, tokenizer) if encoder is None else (),
        task=task,
        encoder=encoder,
        in_four_bits=in_four_bits,
    )


def _from_pretrained(
    where: str, asked: str, *, local: bool, allow_pickle: bool
) -> tuple[Any, Any, str, EncoderInfo | None]:
    """(model, tokenizer, task, what the manifest says of an encoder)."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    path = Path(where)
    _refuse_what_holds_no_model(where, path, allow_pickle=allow_pickle)
    try:
        config = AutoConfig.from_pretrained(where, local_files_only=local, trust_remote_code=False)
        task = resolve_task(where, asked, config, has_modules=has_modules(where, local=local))
        model, found = model_class(task).from_pretrained(
            where,
            dtype=torch.float32,
            local_files_only=local,
            trust_remote_code=False,
            use_safetensors=None if allow_pickle else True,
            weights_only=True,
            output_loading_info=True,
            **({"attn_implementation": "sdpa"} if task == GENERATION else {}),  # not every encoder has it
        )
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local, trust_remote_code=False)
        _refuse_other_weights(where, task, model, found)
        encoder = None
        if task != GENERATION:
            encoder = encoder_info(where, task, model, tokenizer, _positions(where, model), local=local)
    except SourceError:
        raise
    except Exception as error:  # transformers, safetensors and hub clients raise dozens of unrelated classes here
        raise SourceError(f"{where} cannot be opened: {_reason(error, local=path.is_dir())}") from error
    return model.eval(), tokenizer, task, encoder


def _refuse_what_holds_no_model(where: str, path: Path, *, allow_pickle: bool) -> None:
    if not path.is_dir():
        if where.startswith((".", "/", "~")) or where.count("/") > 1 or where.endswith(".gguf"):
            raise SourceError(f"{where} does not exist: give a model directory, a .gguf file or a hub id")
        return
    if not (path / "config.json").is_file():
        raise SourceError(f"{where} is not a model directory: it has no config.json")
    pickles = sorted(one.name for one in path.glob("pytorch_model*.bin"))
    if any(path.glob("*.safetensors")) or (pickles and allow_pickle):
        return
    if pickles:
        raise SourceError(
            f"{where} holds its weights as pickle ({pickles[0]}), and loading a pickle can run code: "
            "save the model as safetensors, or give --allow-pickle if you trust where it comes from"
        )
    raise SourceError(f"{where} holds no .safetensors file: save the model with safe serialization")


def _refuse_other_weights(where: str, task: str, model: Any, found: dict[str, Any]) -> None:
    """Weights that the checkpoint lacks: damage, or the head of a task that it was not made for.

    An encoder's own pooler is not one of them where pooling is ours: without weights it is taken out of the model.
    """
    missing = sorted(found["missing_keys"])
    if task == FEATURES and any(name.startswith("pooler.") for name in missing):
        model.pooler = None
        missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        said = getattr(model.config, "architectures", None) or []
        kind = type(model).__name__
        if said and kind not in said:
            body = f"{model.base_model_prefix}."
            first = min(missing, key=lambda name: (name.startswith(body), name))  # a head's weight says more
            raise SourceError(f"{where} is a {said[0]} and cannot do {task}: it lacks {first} of a {kind}")
        raise SourceError(f"{where} lacks {len(missing)} weights of its architecture, the first is {missing[0]}")
    if found["mismatched_keys"]:
        raise SourceError(f"{where} has weights whose shapes its config.json does not describe")


def _positions(where: str, model: Any) -> int:
    found = positions_of(model)
    if found is None or found < 1:
        raise SourceError(f"{where}: its configuration does not say how many positions it takes")
    return found


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
    if isinstance(error, LookupError | TypeError | AttributeError):  # whose text alone says little
        text = f"one of its files is not what it should be ({type(error).__name__}: {text[:160]})"
    if not local and any(word in text for word in ("connect", "resolve", "offline", "couldn't", "retries", "cached")):
        return "there is no such directory or file here, and the model hub cannot be reached"
    if "not covered" in text or "HeaderTooLarge" in text or "HeaderTooSmall" in text or "incomplete" in text:
        return f"a weights file is truncated or damaged ({text[:120]})"
    return text[:240]


def _settle_template(where: str, tokenizer: Any) -> None:
    """Of several chat templates the default one is the model's. It is asked what an agent will ask it, so that what a
    device would refuse is refused here.
    """
    from edge_agent.errors import BundleError, RequestError
    from edge_agent.template import ChatTemplate

    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if not tokenizer.chat_template:
        return
    try:
        template = ChatTemplate(tokenizer.chat_template, "chat template")
        bos, eos = tokenizer.bos_token, tokenizer.eos_token
        template.render([{"role": "user", "content": "hello"}], bos_token=bos, eos_token=eos)
    except (BundleError, RequestError) as error:
        raise SourceError(f"{where}: its chat template takes no single question: {error}") from None


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


def _licence_in_card(card: Path | None) -> str | None:
    """The `license:` line of a model card."""
    if card is None:
        return None
    named = re.search(r"^license:\s*(\S+)\s*$", card.read_text("utf-8", "replace")[:4096], re.MULTILINE)
    return named.group(1) if named else None
