"""Measure how far off a nano service's estimates of when jobs are done are, from the queue on, and its prices of them.

    python -m zoetrope.benchmarks.eta_error [--jobs 40] [--out benchmarks/results/eta-error.json]

A bursty trace of mixed jobs (four tasks, three sizes, three lengths, three step counts)
is sent to a service of its own. Each job's estimate is read again and again while it is queued and while it runs, and
compared with when the job was done. The error is a share of the job's duration, from its creation to its end. The price
that a job had when it was accepted is compared with the GPU-seconds that it had used at its end.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.provenance import busy, commit_of, machine
from zoetrope.serving.cli.service import ServiceProcess, private_env, serve_command
from zoetrope.serving.client import OperationStatus, VideoClient
from zoetrope.serving.media.picture_writer import write_picture

SEED = 7
GOAL = 0.15  # median error, as a share of a job's duration
PRICE_GOAL = 0.10  # median error of a price, as a share of what was used
READY_SECONDS = 600.0
SAMPLE_SECONDS = 0.5
BURST, PAUSE_SECONDS = 8, 6.0  # jobs at once, and the mean time to the next burst
SIZES = ("96x64", "128x96", "192x128")
FRAMES = (9, 17, 33)
STEPS = (6, 12, 24)
STAGES = ("queued", "running")


@dataclass(frozen=True)
class Sample:
    """An estimate: when it was read, and the seconds left and their interval as they were told."""

    stage: str
    at: float
    eta: float
    low: float
    high: float


@dataclass(frozen=True)
class StageRow:
    """The errors of the estimates in one stage; each job counts once, by the median of its own."""

    stage: str
    jobs: int
    samples: int
    median: float
    p90: float
    bias: float
    within: float


@dataclass(frozen=True)
class PriceRow:
    """The errors of the prices, as shares of what was used; ``total``: of all jobs together, with its sign."""

    jobs: int
    median: float
    p90: float
    within: float
    total: float


def trace(jobs: int, picture: Path) -> list[tuple[float, dict[str, Any]]]:
    """Return when each job is sent, in seconds from the start, and its request."""
    draw = random.Random(SEED)
    found: list[tuple[float, dict[str, Any]]] = []
    at = 0.0
    while len(found) < jobs:
        for _ in range(min(BURST, jobs - len(found))):
            shape = {"size": draw.choice(SIZES), "frames": draw.choice(FRAMES), "steps": draw.choice(STEPS)}
            tasks: list[dict[str, Any]] = [
                {"kind": "text_to_video", "prompt": "a red circle moving right"},
                {"kind": "image_to_video", "prompt": "it turns", "image": picture},
                {"kind": "reference_to_video", "prompt": "Image 1 moves", "references": [picture]},
                {"kind": "first_last_frame", "prompt": "it turns", "first_frame": picture, "last_frame": picture},
            ]
            found.append((at, {"task": draw.choice(tasks), "seed": len(found), **shape}))
        at += draw.expovariate(1 / PAUSE_SECONDS)
    return found


def run(client: VideoClient, plan: Sequence[tuple[float, dict[str, Any]]], log: Callable[[str], None]) -> list[Any]:
    """Send the jobs when their time has come, and sample the estimates of all until they are done.

    Returns:
        For each job its final status and its samples.
    """
    started, left = time.monotonic(), list(plan)
    samples: dict[str, list[Sample]] = {}
    done: dict[str, OperationStatus] = {}
    while left or len(done) < len(samples):
        while left and left[0][0] <= time.monotonic() - started:
            _, fields = left.pop(0)
            samples[client.create(**fields)] = []
        for status in client.iterate():
            if status.name not in samples or status.name in done:
                continue
            if status.done:
                done[status.name] = status
                log(f"{len(done)} of {len(plan)} done")
            elif status.eta_seconds is not None and status.eta_low_seconds is not None:
                stage = "queued" if status.state == "queued" else "running"
                low, high = status.eta_low_seconds, status.eta_high_seconds or status.eta_seconds
                samples[status.name].append(Sample(stage, time.time(), status.eta_seconds, low, high))
        time.sleep(SAMPLE_SECONDS)
    return [(done[name], found) for name, found in samples.items()]


def summarise(jobs: Sequence[tuple[OperationStatus, list[Sample]]]) -> list[StageRow]:
    """Return the errors by stage."""
    rows = []
    for stage in STAGES:
        errors, biases, within, count = [], [], [], 0
        for status, samples in jobs:
            end = status.end_time
            mine = [sample for sample in samples if sample.stage == stage]
            if status.state != "succeeded" or end is None or not mine:
                continue
            duration = end - status.create_time
            signed = [(sample.at + sample.eta - end) / duration for sample in mine]
            errors.append(statistics.median(map(abs, signed)))
            biases.append(statistics.median(signed))
            within += [sample.at + sample.low <= end <= sample.at + sample.high for sample in mine]
            count += len(mine)
        if errors:
            inside = sum(within) / len(within)
            middle = statistics.median(errors)
            values = (round(value, 4) for value in (middle, _p90(errors), statistics.median(biases), inside))
            rows.append(StageRow(stage, len(errors), count, *values))
    return rows


def prices(statuses: Sequence[OperationStatus]) -> PriceRow | None:
    """Return the errors of the prices of jobs that succeeded; None if none was priced."""
    paid = [
        (status.price_gpu_seconds, status.used_gpu_seconds)
        for status in statuses
        if status.state == "succeeded" and status.price_gpu_seconds is not None
    ]
    if not paid:
        return None
    errors = [abs(price - used) / used for price, used in paid]
    total = sum(price for price, _ in paid) / sum(used for _, used in paid) - 1
    within = sum(error <= PRICE_GOAL for error in errors) / len(errors)
    values = (round(value, 4) for value in (statistics.median(errors), _p90(errors), within, total))
    return PriceRow(len(errors), *values)


def _p90(errors: Sequence[float]) -> float:
    return sorted(errors)[min(len(errors) - 1, int(0.9 * len(errors)))]


def markdown(record: dict[str, Any]) -> str:
    """Format the page."""
    about, where = record["measured_on"], record["environment"]
    lines = [
        "# Error of the estimates of a nano service",
        "",
        f"{about['jobs']} mixed jobs in bursts on {about['processor']} ({about['usable_cores']} cores), "
        f"{about['warm_up']} before them to learn from; an error is a share of the job's duration.",
        f"{commit_of(where)}; `{where['command']}`.",
        "",
        "| estimated while | jobs | estimates | median error | p90 | median bias | within the interval |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in record["rows"]:
        figures = " | ".join(f"{100 * row[key]:.1f} %" for key in ("median", "p90", "bias", "within"))
        lines.append(f"| {row['stage']} | {row['jobs']} | {row['samples']} | {figures} |")
    met = "met" if record["goal_met"] else "missed"
    lines += ["", f"Goal: a median error under {100 * GOAL:g} % in every stage: {met}."]
    if (price := record["price"]) is not None:
        met = "met" if price["median"] <= PRICE_GOAL else "missed"
        lines += [
            "",
            f"Prices when the jobs were accepted, against the GPU-seconds that they had used at their ends: of "
            f"{price['jobs']} the median error is {100 * price['median']:.1f} % of what was used, "
            f"p90 {100 * price['p90']:.1f} %; {100 * price['within']:.0f} % are within {100 * PRICE_GOAL:g} %; all "
            f"together {100 * price['total']:+.1f} %. Goal: a median error of {100 * PRICE_GOAL:g} % at most: {met}.",
        ]
    if (warning := busy(about)) is not None:
        lines += ["", warning]
    return "\n".join(lines) + "\n"


def _told(status: OperationStatus) -> dict[str, Any]:
    return {
        "task": status.task,
        "steps": status.steps,
        "state": status.state,
        "price": status.price_gpu_seconds,
        "used": status.used_gpu_seconds,
        "seconds": None if status.end_time is None else round(status.end_time - status.create_time, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser, positive = command.parser("eta_error", __doc__), command.at_least(1)
    parser.add_argument("--jobs", type=positive, default=40, help="jobs of the trace (default: 40)")
    parser.add_argument("--warm-up", type=positive, default=8, help="jobs before it, not counted (default: 8)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        picture = folder / "picture.png"
        pixels = torch.randint(0, 255, (64, 96, 3), generator=torch.Generator().manual_seed(SEED)).byte().numpy()
        write_picture(picture, pixels, 96, 64, "png", {})
        process = ServiceProcess(serve_command("nano", folder / "data"), folder / "service.log", private_env())
        try:
            with VideoClient(process.wait_ready(READY_SECONDS).grpc) as client:

                def log(line: str) -> None:
                    print(line, file=sys.stderr, flush=True)

                run(client, [(0.0, fields) for _, fields in trace(args.warm_up, picture)], log)
                jobs = run(client, trace(args.jobs, picture), log)
        finally:
            process.stop()
    rows, price = summarise(jobs), prices([status for status, _ in jobs])
    record = {
        "environment": header(torch.device("cpu"), command.command_line("eta_error", arguments), SEED),
        "measured_on": {**machine(load), "jobs": args.jobs, "warm_up": args.warm_up},
        "goal": GOAL,
        "goal_met": bool(rows) and all(row.median < GOAL for row in rows),
        "rows": [asdict(row) for row in rows],
        "price": None if price is None else asdict(price),
        "jobs": [_told(status) for status, _ in jobs],
    }
    page = markdown(record)
    command.write_results(args.out, record, page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
