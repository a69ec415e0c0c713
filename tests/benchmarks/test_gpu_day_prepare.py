"""The kernels that are carried to a machine with a GPU are found there: nothing is compiled a second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from zoetrope.benchmarks.gpu_day import carried, compiled
from zoetrope.benchmarks.gpu_day.stages import PLAN
from zoetrope.benchmarks.provenance import REPOSITORY

STAGE = "correct-combine-triton"


def run(*words: str, cache: Path | None = None) -> None:
    """Run a module where no GPU is seen, with Triton's compiler."""
    env = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "ZOETROPE_KERNELS")}
    env |= {"CUDA_VISIBLE_DEVICES": ""} | ({} if cache is None else {"TRITON_CACHE_DIR": str(cache)})
    done = subprocess.run([sys.executable, "-m", *words], cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def launched(name: str, cache: Path, out: Path) -> None:
    """Launch what a stage does at its full size, on a fake device."""
    stage = next(stage for stage in PLAN if stage.name == name)
    words = [word.format(out=out, work=out) for word in stage.command]
    run("zoetrope.kernels.check.fake_cuda", *words, cache=cache)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_what_is_carried_is_not_compiled_again(tmp_path: Path) -> None:
    carry, cache, out = tmp_path / "carry", tmp_path / "elsewhere" / "triton", tmp_path / "out"
    run("zoetrope.benchmarks.gpu_day", "prepare", "--carry", str(carry), "--packages", "--only", STAGE, "--jobs", "1")
    kernels = compiled.unpack(carry / carried.CACHE, cache)
    before = {path.name for path in cache.iterdir()}
    assert kernels > 1 and len(before) > kernels, "entries and the manifest"

    launched("cache", cache, out)
    launched(STAGE, cache, out)
    found: dict[str, Any] = json.loads((out / "cache.json").read_text())
    assert found["hit"] and found["same_triton"] and found["carried"]["kernels"] == kernels
    made = [path for path in cache.iterdir() if path.name not in before and list(path.glob("*.cubin"))]
    assert made == [], "Triton makes an entry with a cubin of whatever it compiles"

    launched("cache", tmp_path / "empty", tmp_path / "other")
    assert not json.loads((tmp_path / "other" / "cache.json").read_text())["hit"]
