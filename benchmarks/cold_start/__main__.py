"""Measure the start of a rank by phase, in a process of its own each time, with nothing in the page cache.

    python -m zoetrope.benchmarks.cold_start --out benchmarks/results/cold-start.json

The checkpoint has the shape of Wan2.1's 1.3B with fewer blocks and random weights, written for this and removed again.
Naive and present starts take turns; medians are shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.provenance import busy
from zoetrope.benchmarks.random_checkpoint import write_random_checkpoint
from zoetrope.model.catalog.checkpoint_layout import RANDOM_NAME
from zoetrope.model.checkpoints.shards import PlannedTensor, write_shards
from zoetrope.model.families import PRESETS
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.protocol import meta_network, module_of

PRESET = "wan2.1-t2v-1.3b"
SEED = 1
STD = 0.02
SHARD_BYTES = 256 << 20
WAYS = ("naive", "now")
PHASES = ("import", "hash", "read", "warm_up")
GOAL = 2.0


def write_checkpoint(folder: Path, blocks: int) -> int:
    """Write a checkpoint of so many blocks; returns the bytes of its transformer."""
    preset = PRESETS[PRESET]
    config = preset.config.model_copy(update={"num_layers": blocks})
    write_random_checkpoint(replace(preset, config=config), folder, SEED)
    (folder / "transformer" / RANDOM_NAME).unlink()
    return sum(
        path.stat().st_size for path in write_shards(folder / "transformer", planned(config), max_bytes=SHARD_BYTES)
    )


def planned(config: TransformerConfig) -> list[PlannedTensor]:
    """Return a network's tensors in bfloat16, drawn when they are written."""

    def pieces(shape: tuple[int, ...]) -> Iterator[torch.Tensor]:
        yield torch.randn(shape) * STD

    shapes = {name: tuple(tensor.shape) for name, tensor in module_of(meta_network(config)).state_dict().items()}
    return [PlannedTensor(name, shape, torch.bfloat16, partial(pieces, shape)) for name, shape in shapes.items()]


def forget(folder: Path) -> None:
    """Take a folder's files out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(model: Path, way: str) -> dict[str, float]:
    """Start a rank in a process of its own, which knows no hashes yet; returns seconds by phase.

    Raises:
        subprocess.CalledProcessError: it did not start.
    """
    forget(model)
    with tempfile.TemporaryDirectory() as cache:
        given = [sys.executable, "-m", "zoetrope.benchmarks.cold_start.start", str(model), way]
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        done = subprocess.run(given, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "total": sum(found.values())}


def markdown(record: Mapping[str, Any]) -> str:
    """Return a page of a record."""
    about, seconds = record["environment"], record["seconds"]
    rows = [
        f"| {phase} | {seconds['naive'][phase]:.2f} | {seconds['now'][phase]:.2f} |" for phase in (*PHASES, "total")
    ]
    goal = "met" if record["goal_met"] else "not met"
    warning = busy(about["machine"])
    return "\n".join(
        (
            "# Cold start",
            "",
            f"`{about['command']}`",
            "",
            f"{about['date']}, commit {about['commit']}, torch {about['torch']}, {about['device']}, {record['cores']} "
            "cores.",
            *([] if warning is None else ["", warning]),
            "",
            f"Seconds of one rank, from its process to the end of the warm-up: {record['bytes'] / 1e9:.2f} GB of "
            f"weights that are not in the page cache, and were never hashed; medians of {record['rounds']}. `hash`: "
            "now what it takes longer than what it runs beside.",
            "",
            "| phase | one after the other | now |",
            "|---|---|---|",
            *rows,
            "",
            f"{record['gain']:.2f} x as fast; goal: {GOAL:g} x: {goal}.",
            "",
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("cold_start", __doc__)
    parser.add_argument("--blocks", type=command.at_least(1), default=16, help="of the transformer (default: 16)")
    parser.add_argument("--rounds", type=command.at_least(1), default=3, help="starts of each way (default: 3)")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written (default: the temporary folder)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        model = Path(folder) / PRESET
        size = write_checkpoint(model, args.blocks)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                found[way].append(measure(model, way))
                print(way, {phase: round(seconds, 2) for phase, seconds in found[way][-1].items()}, file=sys.stderr)
    seconds = {way: {phase: median(one[phase] for one in found[way]) for phase in (*PHASES, "total")} for way in WAYS}
    gain = seconds["naive"]["total"] / seconds["now"]["total"]
    record = {
        "environment": header(torch.device("cpu"), command.command_line("cold_start", arguments), SEED),
        "cores": os.cpu_count(),
        "bytes": size,
        "rounds": args.rounds,
        "seconds": seconds,
        "all": found,
        "gain": gain,
        "goal": GOAL,
        "goal_met": gain >= GOAL,
    }
    page = markdown(record)
    command.write_results(args.out, record, page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
