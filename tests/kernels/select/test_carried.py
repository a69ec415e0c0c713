"""Kernels that an image carries are found by a process whose own cache is empty, and nothing is written there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from zoetrope.kernels.select.carried import VARIABLE

ROOT = Path(__file__).parents[3]
LAUNCH = """
import json, torch
from triton import knobs
from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.cases_rows import combine_cases
from zoetrope.kernels.check.fake_cuda import fake_cuda
hits = []
knobs.compilation.listener = lambda *, cache_hit, **rest: hits.append(cache_hit)
with fake_cuda():
    inputs = KernelInputs(1, torch.device("cuda", 0), tiny=True, kernels=True)
    next(case for case in combine_cases(inputs) if case.dtype == "bf16").run()
print(json.dumps(hits))
"""


def launch(cache: Path, carried: Path | None) -> list[bool]:
    """Launch a kernel on a fake device in a process of its own; returns for each kernel whether it was found."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_CACHE_DIR": str(cache)}
    if carried is not None:
        environment |= {"TRITON_CACHE_MANAGER": "zoetrope.kernels.select.carried:CarriedCache", VARIABLE: str(carried)}
    given = [sys.executable, "-c", LAUNCH]
    done = subprocess.run(given, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    hits: list[bool] = json.loads(done.stdout.splitlines()[-1])
    return hits


@pytest.mark.long
def test_carried_kernels_are_found(tmp_path: Path) -> None:
    assert launch(tmp_path / "built", None) == [False]
    shutil.move(tmp_path / "built", tmp_path / "image")  # Triton's lists of files name the place where they were made
    assert launch(tmp_path / "empty", tmp_path / "image") == [True]
    assert not [path for path in (tmp_path / "empty").rglob("*") if path.is_file()]
    assert launch(tmp_path / "other", tmp_path / "nowhere") == [False]
