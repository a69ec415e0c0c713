"""Where a run took place: device, versions, command, commit, seed."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from kernels.proofs import triton_version
from kernels.tiles import device_table

PACKAGES = ("flash-attn", "flash-attn-3", "liger-kernel", "sageattention", "diffusers")
REPOSITORY = Path(__file__).parents[2]


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def capability(device: torch.device) -> str:
    """``9.0`` for Hopper."""
    return ".".join(map(str, torch.cuda.get_device_capability(device)))


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def file_name(device: torch.device) -> str:
    """What the files of results are called: ``h100``, another device's name, or ``cpu-smoke-test``."""
    if device.type != "cuda":
        return "cpu-smoke-test"
    return device_table(device) or "-".join(device_name(device).lower().split())


def header(device: torch.device, command: str, seed: int) -> dict[str, Any]:
    """What a figure must be read with."""
    cuda = device.type == "cuda"
    return {
        "device": device_name(device),
        "capability": capability(device) if cuda else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "torch": torch.__version__,
        "triton": triton_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "command": command,
        "commit": _output("git", "rev-parse", "HEAD"),
        "changed": bool(_output("git", "status", "--porcelain", "--untracked-files=no", "--", "*.py")),
        "seed": seed,
        "date": now(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else None
