"""Measure many small jobs in a service together, one by one, and by diffusers' own pipeline.

    python -m zoetrope.benchmarks.packed_throughput --out benchmarks/results/packed-throughput

nano makes jobs of four tasks, four shapes and three step counts, first one after another, then all at once, on the same
engine. A dense model of its size with random weights, which diffusers can run as well, makes text-to-video jobs in the
same two ways; diffusers makes them one after another, in a process of its own, with one thread and with all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from zoetrope.benchmarks import command
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.gateway.processes import helper
from zoetrope.benchmarks.packed_throughput import report
from zoetrope.benchmarks.packed_throughput.dense import LATENTS, write_dense
from zoetrope.benchmarks.packed_throughput.served import ServedRun, service
from zoetrope.benchmarks.packed_throughput.work import FEW_STEPS, STEPS, dense_jobs, mixed_jobs, write_media
from zoetrope.benchmarks.provenance import busy, machine

WARM_UP = 4  # jobs before the measured ones: one of each task


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    about = machine(os.getloadavg())
    if (warning := busy(about)) is not None:
        _say(warning)
        if not args.busy:
            _say("Wait until nothing else runs, or use --busy.")
            return 2
    steps, threads = (FEW_STEPS, {1}) if args.quick else (STEPS, {1, os.cpu_count() or 1})
    try:
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory)
            nano = _nano(mixed_jobs(args.jobs, folder / "nano", steps), folder / "nano")
            jobs = dense_jobs(args.jobs, steps)
            diffusers = _diffusers(jobs, folder, threads)
            dense, error = _dense(jobs, folder)
    except BenchmarkError as problem:
        _say(f"error: {problem}")
        return 1
    line = command.command_line("packed_throughput", arguments)
    record = report.record(line, about, args.jobs, nano, dense, diffusers, error)
    page = report.markdown(record)
    command.write_results(args.out, record, page)
    print(page)
    return 0


def _nano(jobs: Sequence[dict[str, Any]], place: Path) -> tuple[ServedRun, ServedRun]:
    place.mkdir()
    write_media(place)
    with service("nano", place) as running:
        running.make(jobs[:WARM_UP], together=True)
        alone, _ = running.make(jobs, together=False)
        together, _ = running.make(jobs, together=True)
    _say(f"nano: {alone.makespan:.1f} s one by one, {together.makespan:.1f} s together")
    return alone, together


def _diffusers(jobs: Sequence[dict[str, Any]], folder: Path, numbers: Collection[int]) -> dict[int, float]:
    """Return seconds by threads. Writes the checkpoint and the latents of the first job to ``folder``."""
    model, file = folder / "wan2.1-t2v", folder / "jobs.json"
    write_dense(model)
    file.write_text(json.dumps(jobs))
    found = {}
    for threads in sorted(numbers):
        with helper("zoetrope.benchmarks.packed_throughput.dense", str(model), str(file), str(threads)) as child:
            child.start()
            found[threads] = float(json.loads(child.line())["seconds"])
        _say(f"diffusers, {threads} threads: {found[threads]:.1f} s")
    return found


def _dense(jobs: Sequence[dict[str, Any]], folder: Path) -> tuple[tuple[ServedRun, ServedRun], float]:
    place = folder / "dense"
    place.mkdir()
    with service(str(folder / "wan2.1-t2v"), place) as running:
        _, (first,) = running.make([{**jobs[0], "keep_latents": True}], together=True)
        running.client.download(first, place / "ours.safetensors", artifact="latents")
        alone, _ = running.make(jobs, together=False)
        together, _ = running.make(jobs, together=True)
    ours, theirs = (load_file(path)["latents"].double() for path in (place / "ours.safetensors", folder / LATENTS))
    _say(f"dense: {alone.makespan:.1f} s one by one, {together.makespan:.1f} s together")
    return (alone, together), float(torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("packed_throughput", __doc__)
    parser.add_argument("--jobs", type=command.at_least(4), default=40, help="jobs of each run (default: 40)")
    parser.add_argument("--quick", action="store_true", help="few steps, and diffusers with one thread alone")
    parser.add_argument("--busy", action="store_true", help="measure even if the machine is not idle")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    return parser


if __name__ == "__main__":
    sys.exit(main())
