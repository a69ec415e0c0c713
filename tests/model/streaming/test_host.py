"""Host memory for slabs: few allocations, little waste, and a refusal with numbers before anything is read."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from tests.model.streaming.streamed_networks import network
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.streaming import host
from zoetrope.model.streaming.host import GIB, HostMemory, allocation, check_host, free_memory
from zoetrope.model.streaming.loading import StreamedLoading, WeightRoom

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    monkeypatch.setattr(host, "CGROUP", tmp_path)


@pytest.mark.parametrize(("block", "count"), [(702 * MIB, 40), (351 * MIB, 40), (327 * MIB, 30), (93 * MIB, 30)])
def test_powers_of_two_waste_little(block: int, count: int) -> None:
    left, free, total = block * count, 0, 0
    for _ in range(count):
        if free < block:
            made = allocation(block, left)
            assert made & (made - 1) == 0, "torch rounds pinned memory up to powers of two"
            free, total = made, total + made
        free, left = free - block, left - block
    assert block * count <= total <= 1.12 * block * count


def test_slabs_do_not_overlap() -> None:
    memory = HostMemory(10 * 1000, pinned=False)
    slabs = [memory.take(1000) for _ in range(12)]
    for number, slab in enumerate(slabs):
        slab.fill_(number)
    assert all(bool((slab == number).all()) and len(slab) >= 1000 for number, slab in enumerate(slabs))
    assert memory.allocated >= memory.taken >= 12_000


def test_too_little_memory_is_refused_with_numbers() -> None:
    check_host(57 * GIB)
    with pytest.raises(ModelError, match=r"58\.0 GiB of page-locked.*64\.0 GiB are free and at most 90%.*fp8"):
        check_host(58 * GIB)
    check_host(14 * GIB, 4)
    with pytest.raises(ModelError, match=r"4 ranks of 15\.0 GiB each"):
        check_host(15 * GIB, 4)


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    (tmp_path / "memory.stat").write_text("anon 5\nfile 0\n")
    assert free_memory() == 64 * GIB
    (tmp_path / "memory.max").write_text(f"{10 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{4 * GIB}\n")
    assert free_memory() == 6 * GIB
    (tmp_path / "memory.current").write_text(f"{10 * GIB}\n")
    read = f"anon {GIB}\nfile {9 * GIB}\nshmem {GIB}\ninactive_file {5 * GIB}\nactive_file {2 * GIB}\nslab 7\n"
    (tmp_path / "memory.stat").write_text(read)
    assert free_memory() == 7 * GIB, "files that were read make room; what lies in memory alone does not"


def test_the_older_version_s_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{10 * GIB}\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(f"{9 * GIB}\n")
    read = f"active_file {GIB}\ntotal_inactive_file {2 * GIB}\ntotal_active_file {3 * GIB}\n"
    (tmp_path / "memory" / "memory.stat").write_text(read)
    assert free_memory() == 6 * GIB


def test_a_network_that_the_host_cannot_hold_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(ModelError, match="offload: streamed weights need"):
        network("dense", loading=StreamedLoading(WeightRoom(0), torch.device("cpu")))


def test_a_refusal_of_the_system_is_told_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **options: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch, "empty", refuse)
    said = r"1\.0 GiB of host memory for streamed weights cannot be had.*out of memory"
    for limit, more in (
        (resource.RLIM_INFINITY, "TORCH_USE_CUDA_DSA$"),
        (2 * GIB, "TORCH_USE_CUDA_DSA$"),
        (8 << 20, r"; this process may lock 0\.00781 GiB \(RLIMIT_MEMLOCK\): raise it with ulimit -l unlimited$"),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        with pytest.raises(ModelError, match=said + ".*" + more):
            HostMemory(GIB, pinned=True).take(GIB)
