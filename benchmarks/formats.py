"""One model in the format of each runtime, made once from one GGUF file and kept in bundles/.

    bundles/bench-int4, bench-int8   `edge-export --precision int4|int8`; where the file's own Q4_1 codes fit, int4
                                     keeps them, because the exporter knows how to read them
    bundles/bench-hf                 the file's weights in fp32, as transformers reads and saves them
    bundles/bench-gguf/*.gguf        llama.cpp's own quantization to Q4_0 and Q8_0 of its own fp32 copy of the file
    bundles/bench-genai-int4         onnxruntime-genai's builder on bench-hf, for int4 on a CPU, all else its default
    bundles/bench-reference          the text of the accuracy figures, and what PyTorch says of it (`reference.py`)
    bundles/bench-minilm-int8        `edge-export --precision int8` of all-MiniLM-L6-v2

Each appears whole or not at all. Knows nothing of how they are measured.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from model import ENCODER, fetch
from reference import write_reference

ROOT: Final = Path(__file__).resolve().parent.parent
MODELS: Final = ROOT / "models"
BUNDLES: Final = ROOT / "bundles"
_PROFILE: Final = "desktop-cpu"


class Unavailable(Exception):
    """A peer's own tool cannot make its format here; the message is its reason."""


def bundle(source: Path, precision: str) -> Path:
    """The bundle of `source` in `precision`. Its accuracy is measured here, so the exporter's gate is wide open."""
    target = BUNDLES / f"bench-{precision}"
    _export(["--model", str(source), "--precision", precision], target)
    return target


def encoder_bundle() -> Path:
    """The int8 bundle of all-MiniLM-L6-v2."""
    target = BUNDLES / "bench-minilm-int8"
    model = fetch(MODELS, ENCODER)
    _export(["--model", str(model), "--task", "feature-extraction", "--precision", "int8"], target)
    return target


def gguf(source: Path, kind: str) -> Path:
    """llama.cpp's file of `kind`, "F32", "Q4_0" or "Q8_0"; the quantized ones are made from the fp32 one."""
    target = BUNDLES / "bench-gguf" / f"{source.name.partition('.')[0]}.{kind}.gguf"
    if not target.exists():
        wider = source if kind == "F32" else gguf(source, "F32")
        _whole(target, lambda scratch: _in_process(_quantize, wider, scratch, kind))
    return target


def checkpoint(source: Path) -> Path:
    """A Hugging Face directory in fp32."""
    target = BUNDLES / "bench-hf"
    _whole(target, lambda scratch: _in_process(_save_pretrained, source, scratch))
    return target


def genai(source: Path) -> Path:
    """onnxruntime-genai's int4 model. Raises Unavailable with the last words of its builder."""
    target = BUNDLES / "bench-genai-int4"
    whole = checkpoint(source)
    _whole(target, lambda scratch: _build_genai(whole, scratch))
    return target


def reference_text(source: Path) -> Path:
    """The directory that `open_reference` reads."""
    target = BUNDLES / "bench-reference"
    _whole(target, lambda scratch: _in_process(write_reference, source, scratch))
    return target


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of the weights in a directory."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files if one.suffix in {".gguf", ".onnx", ".data", ".safetensors"})


def _export(options: list[str], target: Path) -> None:
    if target.exists():
        return
    command = [str(Path(sys.executable).with_name("edge-export")), *options]
    command += ["--profile", _PROFILE, "--max-accuracy-drop", "100", "--output", str(target)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        raise SystemExit(f"{target.name} could not be exported; the reason is above")


def _whole(target: Path, make: Callable[[Path], None]) -> None:
    """Let `make` write to another place, and move it to `target`, unless that is there."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=BUNDLES) as folder:
        scratch = Path(folder) / target.name
        make(scratch)
        os.replace(scratch, target)


def _in_process(make: Callable[..., None], *arguments: Any) -> None:
    """Call `make` in a process of its own: nothing that it loads or starts stays here.

    PyTorch's threads wait there without spinning, as under `edge-export`: beside another process they lose most of
    their time to it.
    """
    process = multiprocessing.get_context("spawn").Process(target=_patiently, args=(make, *arguments))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{make.__name__.strip('_')} failed; the reason is above")


def _patiently(make: Callable[..., None], *arguments: Any) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when the library is loaded
    make(*arguments)


def _quantize(source: Path, target: Path, kind: str) -> None:
    import ctypes

    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # it lists every tensor
    types = {
        "F32": llama_cpp.LLAMA_FTYPE_ALL_F32,
        "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
        "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    }
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = types[kind]
    options.allow_requantize = True  # the source is in 4 bits; to widen it is to re-quantize, in its words
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options)) != 0:
        raise SystemExit(f"llama.cpp could not make {kind} of {source}")


def _save_pretrained(source: Path, target: Path) -> None:
    from exporter.source import open_source

    opened = open_source(str(source))
    opened.model.save_pretrained(target)
    opened.tokenizer.save_pretrained(target)


def _build_genai(whole: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(whole), "-o", str(target)]
        command += ["-p", "int4", "-e", "cpu", "-c", cache]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        shutil.rmtree(target, ignore_errors=True)
        raise Unavailable(f"its builder failed: {' '.join(done.stderr.strip().splitlines()[-1:])[:200]}")
