"""DeepSpeed ZeRO over two processes ends where one process ends, also after a break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.training.toys import upcycled_checkpoint, write_dataset
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.training.errors import TrainingError
from zoetrope.model.training.finetune import FineTuneConfig, build
from zoetrope.model.training.zero import saved_tag

pytest.importorskip("deepspeed", reason="the extra `train` is not installed")
ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
RUNS = {"two": {"zero_stage": 2, "ema": 0.5}, "three": {"zero_stage": 3, "ema": 0.0}}


def write_run(root: Path, out: str, **fields: Any) -> Path:
    config = {
        "checkpoint": str(root / "moe"),
        "dataset": str(root / "clips"),
        "out": str(root / out),
        "batch": 2,
        "lr": 1e-3,
        "warmup": 1,
        "decay": 0.0,
        "balance_rate": 0.01,
    }
    path = root / f"{out}-{fields['steps']}.json"
    path.write_text(json.dumps(config | fields))
    return path


def run_on_two(paths: list[Path]) -> list[dict[str, Any]]:
    """The lines of progress."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tests.model.training.ranks", *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_transformer(find_model(str(folder)), CPU).state_dict()


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    upcycled_checkpoint(tmp_path)
    write_dataset(tmp_path / "clips", [(2, 4, 4)] * 4)
    lines = run_on_two([write_run(tmp_path, out, steps=n, **RUNS[out]) for out in RUNS for n in (2, 4)])
    assert [line["step"] for line in lines] == [2, 4, 2, 4]
    start = weights(tmp_path / "moe")
    for out, last in zip(RUNS, lines[1::2], strict=True):
        alone = build(FineTuneConfig.read(write_run(tmp_path, f"{out}-alone", steps=4, ema=RUNS[out]["ema"])), CPU)
        alone.run(100)
        assert last["clips"] == alone.clips == 8
        assert last["loss"] == pytest.approx(alone.loss, abs=1e-3)
        one, two = weights(tmp_path / f"{out}-alone" / "checkpoint"), weights(tmp_path / out / "checkpoint")
        for name, tensor in one.items():
            moved, apart = (tensor - start[name]).norm(), (tensor - two[name]).norm()
            assert float(apart) <= 0.01 * float(moved) + 1e-6, name
        assert float(one["blocks.1.ffn.correction"].abs().max()) > 0
        index = json.loads((tmp_path / out / "state.json").read_text())
        assert index == {"tag": "step-4", "zero_stage": RUNS[out]["zero_stage"], "ranks": 2}
        assert [p.name for p in (tmp_path / out / "state").iterdir()] == ["step-4"]


def test_a_state_of_other_ranks_or_another_stage_is_refused(tmp_path: Path) -> None:
    assert saved_tag(tmp_path, 2, 2) is None
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"tag": "step-1", "zero_stage": 2, "ranks": 2}))
    assert saved_tag(tmp_path, 2, 2) == "step-1"
    with pytest.raises(TrainingError, match="saved with ranks 2, this run has 4"):
        saved_tag(tmp_path, 2, 4)
    with pytest.raises(TrainingError, match="saved with zero_stage 2, this run has 1"):
        saved_tag(tmp_path, 1, 2)
    path.write_text("{}")
    with pytest.raises(TrainingError, match=r"state\.json: cannot be read"):
        saved_tag(tmp_path, 2, 2)
