"""Compare policies on a running service: small jobs in bursts, and now and then a very large one.

    python -m zoetrope.benchmarks.scheduling --jobs 40 --out benchmarks/results/scheduling

Each policy gets a `zoetrope serve` of its own, one after the other, with a small dense model of random weights, and the
same trace at the same pace. A large job fills an engine's steps, as a long clip in 1080p fills a GPU. Times are the
service's own, from a job's creation to its end. The latents of every job are compared between the policies, so
preempted ones with those that were not. Then, under the last policy, a tenant queues many jobs and another
makes a single one, which it also made while nothing else ran.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from zoetrope.benchmarks import command
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.packed_throughput.dense import write_dense
from zoetrope.benchmarks.provenance import header
from zoetrope.model.request.tasks import TextToVideo, VideoRequest
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.service import ServiceProcess, private_env, serve_command
from zoetrope.serving.client import ClientError, OperationStatus, VideoClient
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import Job
from zoetrope.serving.jobs.open import open_stores

READY_SECONDS = 900.0
END_SECONDS = 1_800.0
PLAIN = {"RANKS": "1", "ENGINES": "1", "PREVIEW_STEPS": "0", "MAX_QUEUED": "4000", "GATEWAYS": "1"}
PROMPT = "a red circle moving right on a white background"
SMALL = ((64, 48, 9, 6), (48, 64, 5, 8), (64, 64, 9, 4), (48, 48, 13, 8))  # width, height, frames, steps
SINGLES = 5  # jobs that the other tenant makes in the flood, one after the other
UNDER_WAY = 10  # jobs of the flood that have ended by then
POLL_SECONDS = 0.2
WARM = 4  # jobs of each kind before the trace: the first steps teach the router what steps cost
TOLERANCE = 1e-4  # of latents: sums are in another order in another batch


@dataclass(frozen=True)
class PacedJob:
    """A job of the trace: when it is made, in seconds from the start, and what it asks for."""

    at: float
    large: bool
    fields: dict[str, Any]


def trace_of(args: argparse.Namespace) -> list[PacedJob]:
    """Return the trace: bursts of ten jobs; one job in twenty is large, and first in its burst."""
    jobs = []
    for number in range(args.jobs):
        burst, place = divmod(number, 10)
        large = place == 0 and burst % 2 == 0
        width, height, frames, steps = (*args.large, args.large_steps) if large else SMALL[number % len(SMALL)]
        at = burst * args.gap + 0.1 * place
        jobs.append(PacedJob(at, large, _fields(f"{width}x{height}", frames, steps, number)))
    return jobs


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    record: dict[str, Any] = {
        "environment": header(command.command_line("scheduling", arguments)),
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_dense(Path(folder) / "model")
            runs = {policy: _run(policy, args, Path(folder) / policy) for policy in args.policies}
            record["policies"] = {policy: run["figures"] for policy, run in runs.items()}
            record["latents_differ_by"] = _difference(Path(folder), args)
            record["flood"] = runs[args.policies[-1]].get("flood")
    except (BenchmarkError, CliError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = page(record)
    sys.stdout.write(text)
    command.write_results(args.out, record, text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("scheduling", __doc__)
    parser.add_argument("--policies", nargs="+", default=["fifo", "fair"], help="in this order")
    parser.add_argument("--jobs", type=command.at_least(2), default=40, help="jobs of the trace")
    parser.add_argument("--gap", type=float, default=20.0, help="seconds between the bursts")
    parser.add_argument(
        "--large", type=int, nargs=3, default=(320, 192, 33), metavar=("W", "H", "FRAMES"), help="size of large jobs"
    )
    parser.add_argument("--large-steps", type=command.at_least(1), default=60, help="steps of large jobs")
    parser.add_argument("--step-tokens", type=command.at_least(1), default=2_000, help="tokens of a step, at most")
    parser.add_argument("--flood", type=int, default=500, help="jobs that one tenant queues; 0: leave that out")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    return parser


def _fields(size: str, frames: int, steps: int, seed: int) -> dict[str, Any]:
    return {
        "task": TextToVideo(prompt=PROMPT),
        "size": size,
        "frames": frames,
        "steps": steps,
        "seed": seed,
        "keep_latents": True,
    }


def _run(policy: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Serve the trace under a policy, and keep its latents in ``folder``."""
    changed = {**PLAIN, "POLICY": policy, "STEP_TOKENS": str(args.step_tokens)}
    env = {**private_env(), **{f"ZOETROPE_{name}": value for name, value in changed.items()}}
    folder.mkdir(parents=True)
    print(f"{policy}: starting", file=sys.stderr)
    service = ServiceProcess(serve_command(str(folder.parent / "model"), folder / "data"), folder / "log", env)
    try:
        target = service.wait_ready(READY_SECONDS).grpc
        with VideoClient(target) as client:
            _warm_up(client, args)
            jobs = trace_of(args)
            ended = _serve(client, jobs)
            for number, status in enumerate(ended):
                client.download(status.name, folder / f"{number}.safetensors", artifact="latents")
        result: dict[str, Any] = {"figures": _figures(jobs, ended)}
        if args.flood and policy == args.policies[-1]:
            result["flood"] = _flood(target, folder / "data", args)
    finally:
        service.stop()
    return result


def _warm_up(client: VideoClient, args: argparse.Namespace) -> None:
    width, height, frames = args.large
    for number in range(WARM):
        small = SMALL[number % len(SMALL)]
        client.wait(client.create(**_fields(f"{small[0]}x{small[1]}", *small[2:], number)), END_SECONDS)
    client.wait(client.create(**_fields(f"{width}x{height}", frames, 3, 0)), END_SECONDS)


def _serve(client: VideoClient, jobs: list[PacedJob]) -> list[OperationStatus]:
    started, names = time.monotonic(), []
    for job in jobs:
        time.sleep(max(0.0, started + job.at - time.monotonic()))
        names.append(client.create(**job.fields))
    return [_done(client.wait(name, END_SECONDS)) for name in names]


def _done(status: OperationStatus) -> OperationStatus:
    if status.state != "succeeded":
        raise BenchmarkError(f"{status.name} ended as {status.state}: {status.error}")
    return status


def _seconds(status: OperationStatus) -> float:
    return (status.end_time or math.nan) - status.create_time


def _figures(jobs: list[PacedJob], ended: list[OperationStatus]) -> dict[str, float]:
    small = sorted(_seconds(status) for job, status in zip(jobs, ended, strict=True) if not job.large)
    large = [_seconds(status) for job, status in zip(jobs, ended, strict=True) if job.large]
    makespan = max(s.end_time or math.nan for s in ended) - min(s.create_time for s in ended)
    return {
        "small_p50": statistics.median(small),
        "small_p99": small[math.ceil(0.99 * len(small)) - 1],
        "large_mean": statistics.mean(large),
        "makespan": makespan,
        "jobs_per_minute": 60 * len(ended) / makespan,
        "succeeded": len(ended),
        "attempts": max(status.attempt for status in ended),
    }


def _difference(folder: Path, args: argparse.Namespace) -> float:
    """Return the largest difference of the latents of a job between two policies."""
    largest = 0.0
    for number in range(args.jobs):
        found = [load_file(folder / policy / f"{number}.safetensors") for policy in args.policies]
        for other in found[1:]:
            for name, values in found[0].items():
                largest = max(largest, float(np.abs(values.astype(np.float64) - other[name]).max()))
    return largest


def _flood(target: str, data: Path, args: argparse.Namespace) -> dict[str, float]:
    """Have tenant ``many`` queue jobs and tenant ``one`` make a single one."""
    fields = _fields("64x64", 9, 8, 1)
    with ExitStack() as stack:
        stores = stack.enter_context(closing(open_stores(Settings(data_dir=data).database_url)))
        secrets = [stores.keys.create(tenant, tenant)[1] for tenant in ("many", "one")]
        many, one = (stack.enter_context(VideoClient(target, api_key=secret)) for secret in secrets)
        alone = statistics.median(_seconds(_done(one.wait(one.create(**fields), END_SECONDS))) for _ in range(3))
        names: list[str] = []
        while len(names) < args.flood:
            batch = [VideoRequest(**fields)] * min(100, args.flood - len(names))
            names += many.create_batch(batch)
        ids = [name.removeprefix("operations/") for name in names]

        def of_many() -> list[Job]:
            return list(stores.jobs.get_many(ids).values())

        while sum(job.state.final for job in of_many()) < UNDER_WAY:
            time.sleep(POLL_SECONDS)
        among, since = [], time.time()
        for _ in range(SINGLES):
            among.append(_seconds(_done(one.wait(one.create(**fields), END_SECONDS))))
        found = of_many()
        beside = [job for job in found if job.started_at is not None and job.started_at > since]
        shares = [job.finished_at - (job.started_at or math.nan) for job in beside if job.finished_at is not None]
        left = sum(not job.state.final for job in found)
    if not left or not shares:
        raise BenchmarkError(f"the flood of {args.flood} jobs is over too soon: --flood more")
    return {"alone": alone, "among": statistics.median(among), "many_job": statistics.median(shares), "left": left}


def page(record: Mapping[str, Any]) -> str:
    """Format the page."""
    lines = [
        "# Policies on a running service",
        "",
        f"A small dense model on this machine, {record['settings']['jobs']} jobs, one engine with steps of"
        f" {record['settings']['step_tokens']:,} tokens. Seconds from creation to end.",
        "",
        "| policy | small, median | small, 99 % | large, mean | makespan | jobs a minute |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for policy, row in record["policies"].items():
        lines.append(
            f"| {policy} | {row['small_p50']:.2f} | {row['small_p99']:.2f} | {row['large_mean']:.1f} |"
            f" {row['makespan']:.1f} | {row['jobs_per_minute']:.1f} |"
        )
    rows = list(record["policies"].values())
    first, last = rows[0], rows[-1]
    lines += [
        "",
        f"99 % of the small jobs: {first['small_p99'] / last['small_p99']:.1f} times sooner under the last policy than"
        f" under the first; throughput {100 * (last['jobs_per_minute'] / first['jobs_per_minute'] - 1):+.1f} %. All"
        f" {last['succeeded']:.0f} succeeded. Latents differ by {record['latents_differ_by']:.2g} at most"
        f" ({'equal but for the order of sums' if record['latents_differ_by'] < TOLERANCE else 'NOT equal'}).",
    ]
    if flood := record.get("flood"):
        lines += [
            "",
            f"A job alone: {flood['alone']:.2f} s. The same after another tenant has queued"
            f" {record['settings']['flood']}: {flood['among']:.2f} s, so"
            f" {flood['among'] - flood['alone']:.2f} s later; one of that tenant's takes {flood['many_job']:.2f} s from"
            f" its start to its end, and {flood['left']:.0f} of them were left. Medians, of {SINGLES} single jobs.",
        ]
    return "\n".join([*lines, "", f"    {record['environment']['command']}", ""])


if __name__ == "__main__":
    sys.exit(main())
