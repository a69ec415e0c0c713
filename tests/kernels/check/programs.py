"""Run the programs of this folder in a process of their own, without Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


def run(module: str, *arguments: str, cache: Path) -> None:
    """Run a module of this folder, or another by its full name, where no GPU is seen; it must succeed."""
    env = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "ZOETROPE_KERNELS")}
    env |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_CACHE_DIR": str(cache)}
    name = module if "." in module else f"tests.kernels.check.{module}"
    result = subprocess.run(
        [sys.executable, "-m", name, *arguments], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
