"""What a service refuses before it starts anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.gateway.harness import ROOT


@pytest.mark.parametrize(
    ("setting", "value", "line"),
    [
        ("RANKS", "3", "ranks: nano cannot run on 3: num_attention_heads is 4, which 3 ranks do not divide"),
        ("NOISE_EXPERTS", "apart", "noise-experts: 'apart' needs a model with two networks, nano has one"),
        ("KERNELS", "attention=fastest", "ZOETROPE_KERNELS: attention has no implementation 'fastest'"),
    ],
)
def test_gangs_and_kernels_that_cannot_be(setting: str, value: str, line: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zoetrope.serving.cli", "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"],
        env={**os.environ, f"ZOETROPE_{setting}": value, "ZOETROPE_DATA_DIR": str(tmp_path / "data")},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert line in done.stderr
    assert not (tmp_path / "data").exists(), "nothing was started"
