"""Opening checkpoints, and one line for each way in which they can be broken."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.manifest import EncoderInfo
from exporter.errors import SourceError
from exporter.source import open_source
from tests.exporter.conftest import ROOT, encoder_checkpoint


def test_a_directory_gives_model_tokenizer_and_facts(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Name, licence, size, context and stop ids are the checkpoint's; the tokenizer's files work alone."""
    from tokenizers import Tokenizer

    source = open_source(str(tiny_checkpoint))
    assert source.info.name == "tiny-llama"
    assert source.info.licence == "apache-2.0"
    assert source.info.architecture == "LlamaForCausalLM"
    assert source.info.parameters == sum(p.numel() for p in source.model.parameters())
    assert source.info.context_length == 256
    assert source.stop_ids == (257,)
    info = source.save_tokenizer(tmp_path / "tokenizer")
    assert (info.bos_token, info.eos_token, info.vocabulary) == ("<s>", "</s>", 300)
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == [
        "chat_template.jinja", "generation_config.json", "tokenizer.json",
    ]  # fmt: skip
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert alone.encode("naïve", add_special_tokens=False).ids == source.tokenizer.encode("naïve")


def test_every_way_to_stop_is_known(broken_checkpoint: Callable[[], Path]) -> None:
    """Stop ids are the union of configuration, generation configuration and the template's end of turn."""
    folder = broken_checkpoint()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 5]}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    assert open_source(str(folder)).stop_ids == (3, 5, 7, 257)


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def lose_a_weight(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop("model.norm.weight"))


def poison(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rename_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "never-heard-of"}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncate, "truncated or damaged"),
        (lose_a_weight, r"lacks 1 weights of its architecture, the first is model\.norm\.weight"),
        (poison, r"model\.norm\.weight holds values that are not finite"),
        (rename_architecture, "never-heard-of"),
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \.safetensors file"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be opened"),
    ],
)
def test_a_broken_checkpoint_is_refused_in_one_line(
    damage: Callable[[Path], object], named: str, broken_checkpoint: Callable[[], Path]
) -> None:
    """Whatever is wrong with a directory, the error is one line that says what."""
    folder = broken_checkpoint()
    damage(folder)
    with pytest.raises(SourceError, match=named) as refused:
        open_source(str(folder))
    assert "\n" not in str(refused.value)


def test_a_sharded_directory_gives_all_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Weights in several files with an index are the same weights; a lost file is named."""
    import torch

    source = open_source(str(tiny_checkpoint))
    shards = tmp_path / "sharded"
    source.model.save_pretrained(shards, max_shard_size="40KB")
    source.tokenizer.save_pretrained(shards)
    assert len(list(shards.glob("*.safetensors"))) > 1
    again = open_source(str(shards)).model.state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in source.model.state_dict().items())
    lost = sorted(shards.glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(SourceError, match=lost.name):
        open_source(str(shards))


def test_pickle_is_loaded_where_allowed_only(broken_checkpoint: Callable[[], Path]) -> None:
    """Weights in a pickle are refused with what to do; allowed, they are the same, and code in them is not run."""
    import torch
    from safetensors.torch import load_file

    folder = broken_checkpoint()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"pytorch_model\.bin.* can run code: .*--allow-pickle"):
        open_source(str(folder))
    opened = open_source(str(folder), allow_pickle=True).model.state_dict()
    assert all(torch.equal(opened[name], weight) for name, weight in weights.items())

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(folder / "ran")))
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(str(folder), allow_pickle=True)
    assert not (folder / "ran").exists()


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "")


def test_a_classifier_gives_its_labels(tmp_path: Path) -> None:
    """An encoder's source has its task and labels, no stop ids, and a tokenizer without files of generation."""
    folder = encoder_checkpoint(tmp_path / "bert", id2label={0: "no", 1: "yes", 2: "maybe"})
    source = open_source(str(folder))
    assert (source.task, source.stop_ids, source.in_four_bits) == ("text-classification", (), False)
    assert source.encoder == EncoderInfo(max_tokens=64, labels=("no", "yes", "maybe"))
    info = source.save_tokenizer(tmp_path / "tokenizer")
    assert [path.name for path in (tmp_path / "tokenizer").iterdir()] == ["tokenizer.json"]
    assert info.chat_template is None


def test_a_tokenizer_is_saved_without_padding(tmp_path: Path) -> None:
    """How long a text may be is the manifest's to say: what tokenizer.json sets itself is left out."""
    from tokenizers import Tokenizer

    source = open_source(str(encoder_checkpoint(tmp_path / "bert")))
    source.tokenizer.backend_tokenizer.enable_padding(length=32)
    source.tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    source.save_tokenizer(tmp_path / "tokenizer")
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert len(alone.encode("seven b", add_special_tokens=False).ids) == 7


@pytest.mark.parametrize(
    ("kind", "task", "named"),
    [
        ("BertForMaskedLM", "text-classification", r"BertForMaskedLM and cannot do text-classification: .*classifier"),
        ("BertModel", "text-generation", "BertModel and cannot do text-generation"),
        ("BertForSequenceClassification", "token-classifying", "'token-classifying' is no task"),
    ],
)
def test_a_task_that_the_checkpoint_cannot_do_is_refused(kind: str, task: str, named: str, tmp_path: Path) -> None:
    """Checkpoint and task are both named, also where only the head's weights are missing."""
    with pytest.raises(SourceError, match=named):
        open_source(str(encoder_checkpoint(tmp_path / "odd", kind)), task=task)


def test_an_encoder_needs_no_pooler_of_its_own(tmp_path: Path) -> None:
    """A masked language model becomes an encoder of features: what it lacks of BERT's pooler is left out."""
    source = open_source(str(encoder_checkpoint(tmp_path / "bert", "BertForMaskedLM")), task="feature-extraction")
    assert source.encoder == EncoderInfo(max_tokens=64, pooling="mean", normalize=False)
    assert source.model.pooler is None


def test_a_tokenizer_without_a_template_asks_plainly(broken_checkpoint: Callable[[], Path]) -> None:
    """Without a chat template a question is its own prompt."""
    folder = broken_checkpoint()
    (folder / "chat_template.jinja").unlink()
    source = open_source(str(folder))
    assert source.prompt_ids("abc") == source.tokenizer.encode("abc")


def test_the_default_of_several_templates_is_the_model_s(broken_checkpoint: Callable[[], Path], tmp_path: Path) -> None:
    """What asks the reference is what the bundle carries."""
    folder = broken_checkpoint()
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    source = open_source(str(folder))
    assert source.prompt_ids("abc") == source.tokenizer.encode("abc!", add_special_tokens=False)
    source.save_tokenizer(tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}!"


@pytest.mark.parametrize("template", ["{{ raise_exception('system first') }}", "{% for %}"])
def test_a_template_that_takes_no_question_is_refused(template: str, broken_checkpoint: Callable[[], Path]) -> None:
    """Before the work, and by the code that an agent will render it with."""
    folder = broken_checkpoint()
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(SourceError, match="chat template"):
        open_source(str(folder))


def test_foreign_code_is_never_run(broken_checkpoint: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that brings its own classes is refused without a question to the user."""
    folder = broken_checkpoint()
    (folder / "own.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(str(folder))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"), [("modules.json", "[{}]"), ("modules.json", '{"a": 1}'), ("sentence_bert_config.json", "[1]")]
)
def test_odd_side_files_are_one_line(name: str, content: str, tmp_path: Path) -> None:
    """Files of sentence-transformers that hold something else."""
    folder = encoder_checkpoint(tmp_path, "BertModel")
    (folder / name).write_text(content)
    with pytest.raises(SourceError, match="cannot be opened") as refused:
        open_source(str(folder))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("where", ["/no/such/folder", "no/such/deep/path", "missing.gguf"])
def test_a_path_that_does_not_exist_is_no_hub_id(where: str) -> None:
    """What looks like a path is not looked up on the network."""
    with pytest.raises(SourceError, match="does not exist"):
        open_source(where)


class Hub(http.server.BaseHTTPRequestHandler):
    """A model hub with one model, `team/tiny`, whose files lie in `folder`; the same answers as the real one gives."""

    folder: Path

    def do_HEAD(self) -> None:
        self._send(with_body=False)

    def do_GET(self) -> None:
        self._send(with_body=True)

    def _send(self, *, with_body: bool) -> None:
        file = self.folder / self.path.partition("/resolve/main/")[2]
        content = file.read_bytes() if file.is_file() else b'{"siblings": []}'
        known = "/team/tiny" in self.path and (file.is_file() or self.path == "/api/models/team/tiny")
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "EntryNotFound" if "/team/tiny" in self.path else "RepoNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", hashlib.sha256(content).hexdigest())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def hub(tiny_checkpoint: Path) -> Iterator[str]:
    """Its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("TinyHub", (Hub,), {"folder": tiny_checkpoint}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_id_is_fetched(hub: str, tmp_path: Path) -> None:
    """The files of `team/tiny` come from the hub that HF_ENDPOINT names, its licence too; another id is one line."""
    script = (
        "from exporter.errors import SourceError\n"
        "from exporter.source import open_source\n"
        "print(open_source('team/tiny').info)\n"
        "try:\n    open_source('team/other')\nexcept SourceError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache")}
    opened = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    told, refused = opened.stdout.splitlines()
    assert "name='tiny', source='team/tiny', licence='apache-2.0', architecture='LlamaForCausalLM'" in told
    assert refused.startswith("team/other cannot be opened: ")
    assert opened.stderr == ""


@pytest.mark.model
@pytest.mark.slow
def test_smollm2_opens_from_its_gguf(smollm2_source: Any) -> None:
    """The GGUF gives the model, its licence, its name without the quantization, and its end of turn."""
    info = smollm2_source.info
    assert (info.name, info.licence) == ("SmolLM2-135M-Instruct", "apache-2.0")
    assert (info.parameters, info.context_length) == (134_515_008, 8192)
    assert smollm2_source.stop_ids == (2,)
    assert len(smollm2_source.prompt_ids("What is the capital of France?")) == 37
    assert smollm2_source.in_four_bits


@pytest.mark.model
def test_minilm_opens_as_an_encoder_of_features() -> None:
    """MiniLM's own files say 256 tokens, the mean of them, and length one."""
    source = open_source(str(ROOT / "models" / "all-MiniLM-L6-v2"))
    assert source.task == "feature-extraction"
    assert source.encoder == EncoderInfo(max_tokens=256, pooling="mean", normalize=True)
    assert (source.info.architecture, source.info.context_length) == ("BertModel", 512)
