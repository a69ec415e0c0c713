"""A GPU day of trivial stages: ``python -m tests.benchmarks.trivial_day WORK OUT WHAT...``, a stage for each WHAT."""

from __future__ import annotations

import sys
from pathlib import Path

from zoetrope.benchmarks.gpu_day.outcome import StageOutcome
from zoetrope.benchmarks.gpu_day.runner import DayMachine, DayRun
from zoetrope.benchmarks.gpu_day.stages import DayStage

MODULE = "tests.benchmarks.trivial_stage"


def stage(
    what: str, *, counter: Path | None = None, seconds: float = 60.0, beside: str = "", need: str = ""
) -> DayStage:
    words = (MODULE, what, "{out}/found.json", *([str(counter)] if counter else []))
    needs = (need,) if need else ()
    name = f"stage-{what}"
    return DayStage(name, 1, seconds, words, words, ("*.json",), fake=False, beside=beside, needs=needs)


def machine(commit: str | None = "abc", dry_run: bool = False, device: str = "a GPU") -> DayMachine:
    return DayMachine(device, commit, dry_run, 2, {})


def day(
    work: Path, out: Path, *stages: DayStage, budget: float = 600.0, on: DayMachine | None = None
) -> list[StageOutcome]:
    return DayRun(on or machine(), work, out, budget, lambda line: print(line, flush=True)).go(stages)


if __name__ == "__main__":
    day(Path(sys.argv[1]), Path(sys.argv[2]), *map(stage, sys.argv[3:]))
