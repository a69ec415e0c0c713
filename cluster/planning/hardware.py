"""What a rank runs on: memory, speed and links of each kind of processor, and where each figure comes from.

Figures are of two kinds. ``datasheet``: published by the vendor (NVIDIA's H100 SXM, H200 SXM, A100 SXM, L40S and
GeForce RTX 4090; dense rates, no sparsity). ``assumed``: ours, where no datasheet has one. None was measured by this
project; `cluster.planning.calibration` replaces what it can with measurements. The fractions of peak are assumptions
as well, chosen near what others report for an H100: about 798 TFLOP/s in a dense product, 597 in a whole layer of
narrow experts, 640 in attention with heads of 128, 3.0 TB/s in a copy, and 400 and 44.5 GB/s per direction over
NVLink and InfiniBand.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

GIB = 2**30


@dataclass(frozen=True)
class Link:
    """Between ranks. ``bandwidth``: bytes a second in one direction, of one rank. ``fraction``: the assumed share of it
    that a collective reaches. ``latency``: assumed seconds of an empty collective."""

    name: str
    bandwidth: float
    fraction: float
    latency: float
    source: str


@dataclass(frozen=True)
class Hardware:
    """One rank's processor.

    Attributes:
        memory: bytes. shared_memory: the ranks of a machine share them.
        reserve: bytes not available for planning: driver and library contexts, communicators, allocator waste.
        value_bytes: of a weight or an activation: bfloat16 on a GPU, float32 on a CPU.
        peak: FLOP/s of dense matrix products in that type. bandwidth: bytes a second of its memory.
        products, experts, attention, passes: assumed fractions of ``peak``; ``passes`` is one of ``bandwidth``.
        inside: the link within an NVLink domain. outside: the one between domains.
        host: assumed bytes a second of copies from page-locked host memory, over 16 lanes of PCIe.
    """

    name: str
    memory: int
    reserve: int
    value_bytes: int
    peak: float
    bandwidth: float
    products: float
    experts: float
    attention: float
    passes: float
    inside: Link
    outside: Link
    source: str
    shared_memory: bool = False
    is_gpu: bool = True
    host: float = 22e9


NVLINK = Link("NVLink", 450e9, 0.89, 20e-6, "datasheet: 900 GB/s both ways together; fraction and latency assumed")
INFINIBAND = Link("InfiniBand", 50e9, 0.89, 40e-6, "datasheet: NDR, 400 Gb/s a GPU; fraction and latency assumed")
LOOPBACK = Link("loopback", 2e9, 1.0, 500e-6, "assumed")
NVLINK_3 = Link("NVLink", 300e9, 0.89, 20e-6, "datasheet: 600 GB/s both ways together; fraction and latency assumed")
PCIE = Link("PCIe", 22e9, 0.8, 40e-6, "assumed: 16 lanes of PCIe 4 between GPUs of one machine")
PCIE_4, PCIE_5 = 22e9, 45e9  # assumed: of page-locked copies to the device; the lanes carry 31.5 and 63 GB/s


def _hopper(name: str, memory: int, bandwidth: float) -> Hardware:
    return Hardware(
        name=name,
        memory=memory * GIB,
        reserve=6 * GIB,
        value_bytes=2,
        peak=989.4e12,
        bandwidth=bandwidth,
        products=0.75,
        experts=0.60,
        attention=0.60,
        passes=0.80,
        inside=NVLINK,
        outside=INFINIBAND,
        source=f"datasheet: {name.upper()} SXM, {memory} GB (counted as GiB, the reserve covers what is less), 989.4 "
        f"TFLOP/s dense in bfloat16, {bandwidth / 1e12:g} TB/s; fractions of these and a reserve of 6 GiB are assumed",
        host=PCIE_5,
    )


def _older(
    name: str, memory: int, peak: float, bandwidth: float, inside: Link, products: float, attention: float
) -> Hardware:
    reserve = reserve_of(memory * GIB)
    return Hardware(
        name=name,
        memory=memory * GIB,
        reserve=reserve,
        value_bytes=2,
        peak=peak,
        bandwidth=bandwidth,
        products=products,
        experts=0.8 * products,
        attention=attention,
        passes=0.80,
        inside=inside,
        outside=INFINIBAND,
        source=f"datasheet: {name.upper()}, {memory} GB (counted as GiB), {peak / 1e12:g} TFLOP/s dense in bfloat16, "
        f"{bandwidth / 1e12:g} TB/s; fractions of these and a reserve of {reserve / GIB:.1f} GiB are assumed",
        host=PCIE_4,
    )


def reserve_of(memory: int) -> int:
    """Return what is assumed not to be available of a GPU with ``memory`` bytes, for contexts and allocator waste."""
    return min(6 * GIB, max(3 * GIB // 2, memory * 3 // 40))


def with_memory(hardware: Hardware, memory: int) -> Hardware:
    """Return the same hardware with ``memory`` bytes."""
    return replace(hardware, memory=memory, reserve=reserve_of(memory))


def _cpu() -> Hardware:
    """This machine: its real memory, and nominal figures for everything else."""
    return Hardware(
        name="cpu",
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        reserve=1 * GIB,
        value_bytes=4,
        peak=50e9,
        bandwidth=10e9,
        products=0.5,
        experts=0.3,
        attention=0.3,
        passes=0.5,
        inside=LOOPBACK,
        outside=LOOPBACK,
        source="memory of this machine, shared by its ranks; all speeds are assumed: 50 GFLOP/s and 10 GB/s a rank",
        shared_memory=True,
        is_gpu=False,
    )


HARDWARE: dict[str, Hardware] = {
    "h100": _hopper("h100", 80, 3.35e12),
    "h200": _hopper("h200", 141, 4.8e12),
    "a100": _older("a100", 80, 312e12, 2.039e12, NVLINK_3, 0.80, 0.64),
    "l40s": _older("l40s", 48, 362e12, 0.864e12, PCIE, 0.60, 0.50),
    "rtx4090": _older("rtx4090", 24, 165.2e12, 1.008e12, PCIE, 0.90, 0.90),
    "cpu": _cpu(),
}


def hardware(kind: str) -> Hardware:
    """Return the hardware of a kind. Raises ValueError if it is unknown."""
    if kind not in HARDWARE:
        raise ValueError(f"gpu is {kind!r}: it must be one of {', '.join(HARDWARE)}")
    return HARDWARE[kind]


def hardware_of(device: str) -> Hardware:
    """Return the hardware of a device by torch's name for it. An unknown GPU is assumed to be ten times as slow as the
    slowest known one, because a time limit should rather be too long."""
    if device == "cpu":
        return HARDWARE["cpu"]
    for name, known in HARDWARE.items():
        if known.is_gpu and name.upper() in device.upper().replace(" ", ""):
            return known
    slowest = HARDWARE["h100"]
    return replace(
        slowest,
        name=device,
        peak=slowest.peak / 10,
        bandwidth=slowest.bandwidth / 10,
        source=f"assumed: a tenth of {slowest.name}",
    )
