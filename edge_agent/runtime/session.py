"""Opens one ONNX Runtime session, with the provider and the threads that were asked for or not at all.

Knows nothing of what the graph computes. ONNX Runtime falls back to its CPU provider without a word when
another one cannot be had, so what the session really uses is read back and compared.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from edge_agent.errors import BundleError, RuntimeUnavailable

CPU_PROVIDER: Final = "CPUExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
_TOPOLOGY: Final = Path("/sys/devices/system/cpu")


def open_session(model_path: Path, *, threads: int | None = None, provider: str = CPU_PROVIDER) -> Any:
    """An `onnxruntime.InferenceSession` over the graph in `model_path`.

    `threads` work on one operator (default: `default_threads()`). Raises BundleError if ONNX Runtime does not
    take the graph, RuntimeUnavailable if it is not installed or would run with another provider.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailable(
            f"ONNX Runtime cannot be imported ({error}): install edgefleet[agent] or edgefleet[agent-gpu]"
        ) from None
    if provider not in onnxruntime.get_available_providers():  # before weights are read for nothing
        raise RuntimeUnavailable(
            f"this ONNX Runtime was built without {provider}: on a PC install edgefleet[agent-gpu] and not "
            "edgefleet[agent], on a Jetson NVIDIA's own onnxruntime-gpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads if threads is not None else default_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what fails is raised; it need not be printed as well
    providers = list(dict.fromkeys((provider, CPU_PROVIDER)))  # for what the first has no kernel of
    try:
        session = onnxruntime.InferenceSession(str(model_path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises some ten unrelated classes here, bare RuntimeError included
        raise BundleError(f"{model_path}: ONNX Runtime does not take this graph: {_one_line(error)}") from None
    used = session.get_providers()
    if not used or used[0] != provider:
        raise RuntimeUnavailable(
            f"{provider} cannot be used, ONNX Runtime would fall back to {', '.join(used)}: "
            "install the CUDA and cuDNN libraries that it was built for, or choose another --runtime"
        )
    return session


def runtime_name(provider: str = CPU_PROVIDER) -> str:
    """For example `onnxruntime 1.23.2 CPUExecutionProvider`."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__} {provider}"


def default_threads() -> int:
    """One thread for each physical core that this process may run on: siblings share what decoding needs."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_core_of(cpu) for cpu in allowed}
    return max(1, len(cores))


def _core_of(cpu: int) -> tuple[str, str]:
    topology = _TOPOLOGY / f"cpu{cpu}" / "topology"
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return "", str(cpu)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
