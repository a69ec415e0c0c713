"""Have VBench's own package score clips, dimension by dimension, where it and its weights are installed.

VBench pins packages that do not go with ours, so it runs in an environment of its own. Its total is a weighted mean of
16 dimensions over its own prompts with five clips each: the clips here are others, so none is ever given.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.quality.scripts.vbench_dimensions import WEIGHTS

SCRIPT = Path(__file__).parent / "scripts" / "vbench_dimensions.py"
DIMENSIONS = tuple(WEIGHTS)  # that VBench computes for clips of other prompts than its own
SECONDS = 3_600


def score(python: str, folder: Path, dimensions: Sequence[str] = DIMENSIONS) -> dict[str, Any]:
    """Return VBench's version and its score of a folder's videos in each dimension.

    Args:
        python: the interpreter of an environment with the package ``vbench``; its weights lie where that looks for
            them (VBENCH_CACHE_DIR). Nothing is downloaded.

    Raises:
        BenchmarkError: the package or weights are missing, or it failed; says what.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as out:
        line = [python, str(SCRIPT), str(folder), out, device, *dimensions]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchmarkError(f"VBench did not run: {error}") from None
    if done.returncode:
        raise BenchmarkError(f"VBench failed: {' '.join(done.stderr.split())[-300:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "missing" in answer:
        raise BenchmarkError(answer["missing"])
    return answer
