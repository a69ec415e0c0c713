"""The GPU day from end to end without a GPU: every stage is entered, also if the run is killed on the way."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoetrope.benchmarks.gpu_day import archive, outcome
from zoetrope.benchmarks.gpu_day.__main__ import main
from zoetrope.benchmarks.gpu_day.stages import PLAN, due
from zoetrope.benchmarks.provenance import REPOSITORY

SEED = 18
LEFT_OUT = "is not installed"


def start(out: Path, work: Path) -> subprocess.Popen[str]:
    """Start a dry run as a machine with a GPU would start the real one."""
    command = [REPOSITORY / "benchmarks" / "gpu_day.sh", "--dry-run", "--budget", "3000", "--jobs", "2"]
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)  # the fake device needs Triton's compiler
    return subprocess.Popen(
        [*map(str, command), "--out", str(out), "--work", str(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=out.parent,
    )


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_stage_is_entered_though_the_run_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, work = tmp_path / "out", tmp_path / "day" / "work"
    names = {stage.name for stage in PLAN}
    ended = random.Random(SEED).randrange(1, len(PLAN) - 1)
    done: list[str] = []
    with start(out, work) as run:
        assert run.stdout is not None
        for line in run.stdout:
            name, _, what = line.partition(": ")
            done += [name] if name in names and not what.startswith("started") else []
            if len(done) == ended:
                run.kill()  # in the middle of the next stage
    assert len(done) >= ended
    shutil.rmtree(work)

    with start(out, work) as run:
        said, _ = run.communicate()
    before = {line.partition(":")[0] for line in said.splitlines() if " before, " in line}
    found = {stage.name: outcome.load(work / stage.name) for stage in PLAN}
    complete = {name for name, one in found.items() if one.complete}
    assert {name: one.reason for name, one in found.items() if not one.complete and LEFT_OUT not in one.reason} == {}
    assert before == complete & set(done), "what was done is not done again, and nothing else is left out"
    assert {(one.dry_run, one.stage in names) for one in found.values()} == {(True, True)}
    assert not {name for name, one in found.items() if one.state == "wrong"} - {"nano-oracle"}, "one step is too few"
    assert {path.name for path in out.iterdir()} == {archive.NAME, "summary.json"}
    assert set(archive.unpack(out / archive.NAME, tmp_path / "again")) == names
    assert [line.split()[0] for line in said.splitlines()[-len(PLAN) :]] == [stage.name for stage in due(PLAN)]

    places = ["--results", str(tmp_path / "r"), "--data", str(tmp_path / "d")]
    assert main(["merge", str(out / archive.NAME), *places]) == 2
    assert "was a dry run" in capsys.readouterr().err and not (tmp_path / "r").exists()
