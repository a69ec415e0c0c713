"""Where a run took place: device, versions, command, commit, seed."""

from __future__ import annotations

import platform
from typing import Any

import torch

from zoetrope.benchmarks import provenance
from zoetrope.benchmarks.provenance import output_of, versions
from zoetrope.kernels.gpu.tiles import device_table
from zoetrope.kernels.select.proofs import triton_version

PACKAGES = ("flash-attn", "flash-attn-3", "liger-kernel", "sageattention", "diffusers")


def capability(device: torch.device) -> str:
    """Return the compute capability, ``9.0`` for Hopper."""
    return ".".join(map(str, torch.cuda.get_device_capability(device)))


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the architecture of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def file_name(device: torch.device) -> str:
    """Return the stem of the result files: ``h100``, another device's name, or ``cpu-smoke-test``."""
    if device.type != "cuda":
        return "cpu-smoke-test"
    return device_table(device) or "-".join(device_name(device).lower().split())


def header(device: torch.device, command: str, seed: int) -> dict[str, Any]:
    """Return everything that is needed to interpret and reproduce a figure."""
    cuda = device.type == "cuda"
    return {
        "device": device_name(device),
        "capability": capability(device) if cuda else None,
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "torch": torch.__version__,
        "triton": triton_version(),
        "packages": versions(PACKAGES),
        **provenance.header(command, seed),
    }
