"""The options that all benchmarks of quality share: which cases, how many, made in how many steps."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoetrope.benchmarks import command
from zoetrope.model.nano.evaluate import SHORT_NAMES
from zoetrope.model.nano.samples import TaskKind

MODEL = "nano"
SEED = 987654  # of `model.nano.evaluate`


def add_case_options(parser: argparse.ArgumentParser, count: int = 200) -> None:
    """Add the options. ``count``: the default number of cases of each task."""
    parser.add_argument("--tasks", default=",".join(SHORT_NAMES), help="which, by commas (default: %(default)s)")
    parser.add_argument(
        "--count", type=command.at_least(1), default=count, help="cases of each task (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the cases; must not be the seed of training")
    parser.add_argument("--steps", type=command.at_least(1), help="denoising steps, else the model's default")
    parser.add_argument("--batch", type=command.at_least(1), default=10, help="clips per batch (default: 10)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)


def kinds_of(parser: argparse.ArgumentParser, tasks: str) -> list[TaskKind]:
    """Return the tasks that --tasks names; an unknown one ends the process with a message."""
    names = [name.strip() for name in tasks.split(",")]
    if not SHORT_NAMES.keys() >= set(names):
        parser.error(f"--tasks: {tasks!r} must be of {', '.join(SHORT_NAMES)}")
    return [SHORT_NAMES[name] for name in dict.fromkeys(names)]
