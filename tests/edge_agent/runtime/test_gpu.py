"""The GPU through CUDA's driver: what it is, its memory, and its refusals. On a stand-in for the driver."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import RuntimeUnavailable
from edge_agent.runtime.gpu import Gpu, driver_version, open_gpu
from tests.edge_agent.runtime.stand_ins import HostDriver


def test_the_gpu_says_what_it_is() -> None:
    """Name, compute capability, and the CUDA that the driver can do."""
    gpu = Gpu(HostDriver(name="NVIDIA GeForce RTX 4060", capability=(8, 9), cuda=13020))
    assert (gpu.name, gpu.compute_capability, gpu.cuda) == ("NVIDIA GeForce RTX 4060", "8.9", "13.2")


def test_memory_begins_with_zeros_and_keeps_what_is_copied() -> None:
    """There and back, and given back at the end."""
    driver = HostDriver()
    gpu = Gpu(driver)
    address = gpu.allocate(40)
    values = np.arange(10, dtype=np.float32)
    back = np.ones(10, np.float32)
    gpu.download(address, back)
    assert not back.any()
    gpu.upload(address, values)
    values[:] = 0
    gpu.download(address, back)
    assert back.tolist() == list(range(10))
    gpu.free(address)
    assert not driver.held


def test_another_thread_says_that_it_uses_it() -> None:
    """A context belongs to a thread: without `use` the driver refuses."""
    gpu = Gpu(HostDriver())
    refused: list[str] = []

    def other() -> None:
        try:
            gpu.allocate(8)
        except RuntimeUnavailable as error:
            refused.append(str(error))
        gpu.use()
        gpu.allocate(8)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert refused == ["the GPU refuses cuMemAlloc_v2: error 201, unknown"]


def test_refusals_are_the_drivers_own_words() -> None:
    """No GPU, and not enough memory."""
    with pytest.raises(RuntimeUnavailable, match="cuInit: error 100, no CUDA-capable device is detected"):
        Gpu(HostDriver(devices=0))
    with pytest.raises(RuntimeUnavailable, match="cuMemAlloc_v2: error 2, out of memory"):
        Gpu(HostDriver(memory_bytes=100)).allocate(101)


def test_without_a_driver_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """No libcuda is no GPU."""

    def none(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", none)
    with pytest.raises(RuntimeUnavailable, match=r"no NVIDIA driver is here \(libcuda\.so\.1: .*--runtime cpu"):
        open_gpu()


def test_the_drivers_version_stands_in_a_file(tmp_path: Path) -> None:
    """That of the kernel module, or a Jetson's release."""
    missing, module, release = (tmp_path / name for name in ("missing", "module", "release"))
    module.write_text("580.65.06\n")
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    assert driver_version((missing, module, release)) == "580.65.06"
    assert driver_version((missing, release)) == "R36 (release), REVISION: 4.3"
    assert driver_version((missing,)) == "unknown"
