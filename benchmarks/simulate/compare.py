"""Hold the simulation against a real service: the same small jobs through `zoetrope serve` with nano, and simulated.

    python -m zoetrope.benchmarks.simulate.compare --jobs 40 --out benchmarks/results/simulate-compare

The service first makes each kind of job alone, twice; from the second ones come the seconds of the other stages. Then
it gets the trace, which is recorded from its job database. The simulation of that has the policy of the service and the
costs of steps that the service's router has fitted, read from the same database.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoetrope.benchmarks import command
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.provenance import busy, header, machine
from zoetrope.benchmarks.simulate.fleet import Fleet, StageSeconds
from zoetrope.benchmarks.simulate.generate import TraceRecipe, generate
from zoetrope.benchmarks.simulate.metrics import latencies, percentile
from zoetrope.benchmarks.simulate.mixes import MIXES
from zoetrope.benchmarks.simulate.recorder import engine_costs, recorded_jobs, trace_of
from zoetrope.benchmarks.simulate.simulation import SimRules, Simulation
from zoetrope.benchmarks.simulate.trace import TraceError, TraceJob
from zoetrope.benchmarks.simulate.workload import preset_named, workload
from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.service import ServiceProcess, private_env, serve_command
from zoetrope.serving.client import ClientError, VideoClient
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.router.policies.choose import policy_of
from zoetrope.serving.router.policies.policy import registered

MODEL, PROMPT = "nano", "a red circle moving right on a white background"
READY_SECONDS = 600.0
GOAL = 0.15  # how far the simulated mean may be from the measured one


@dataclass(frozen=True)
class Measured:
    """What the service did. ``alone``: each kind of job by itself; ``costs``: of its engine's steps."""

    alone: tuple[Job, ...]
    jobs: tuple[Job, ...]
    costs: StepCosts


def main(arguments: Sequence[str] | None = None) -> int:
    parser, positive = command.parser("simulate.compare", __doc__), command.at_least(1)
    parser.add_argument("--jobs", type=positive, default=40, help="of the trace (default: 40)")
    parser.add_argument("--load", type=float, default=0.8, help="work that arrives, in parts of the engine's time")
    parser.add_argument("--policy", default="fair", choices=sorted(registered()), help="of both (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the trace (default: 1)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    if not 0 < args.load <= 4:
        parser.error(f"--load is {args.load}, must be above 0 and at most 4")
    about = machine(os.getloadavg())
    try:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(args.jobs, args.load, args.policy, args.seed, Path(folder))
        figures = compare(measured, args.policy)
    except (BenchmarkError, TraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    where = header(command.command_line("simulate.compare", arguments), args.seed)
    record: dict[str, Any] = {"environment": where | {"machine": about}}
    record |= {"policy": args.policy, "load": args.load, "seed": args.seed, "goal": GOAL, **figures}
    text = page(record)
    command.write_results(args.out, record, text)
    print(text)
    return 0


def measure(count: int, load: float, policy: str, seed: int, folder: Path) -> Measured:
    """Run a service with nano, and its jobs.

    Args:
        folder: an empty one for its data and log.

    Raises:
        BenchmarkError: it does not start, or a job fails.
    """
    environment = {**private_env(), "ZOETROPE_POLICY": policy, "ZOETROPE_PREVIEW_STEPS": "0"}
    data = folder / "data"
    service = ServiceProcess(serve_command(MODEL, data), folder / "log", environment)
    try:
        with VideoClient(service.wait_ready(READY_SECONDS).grpc) as client:
            kinds = _kinds()
            for kind in kinds:
                _wait(client, _create(client, kind))
            started = time.time()
            for kind in kinds:
                _wait(client, _create(client, kind))
            middle = time.time()
            alone = [job for job in recorded_jobs(_database(data)) if started <= job.created_at]
            _send(client, _trace(count, load, seed, [_denoising(job) for job in alone]))
        costs = engine_costs(_database(data))  # an engine that stops in good order takes its row away
    except (CliError, ClientError) as error:
        raise BenchmarkError(f"the service: {error}") from None
    finally:
        service.stop()
    jobs = recorded_jobs(_database(data))
    for job in jobs:
        if job.state is not State.SUCCEEDED:
            raise BenchmarkError(f"a job of the service has {job.state}: {job.error_message}")
    return Measured(
        tuple(job for job in jobs if started <= job.created_at < middle),
        tuple(job for job in jobs if job.created_at >= middle),
        costs,
    )


def compare(measured: Measured, policy: str) -> dict[str, Any]:
    """Simulate what was measured, and return the latencies of both in seconds."""
    trace, preset = trace_of(measured.jobs), preset_named(MODEL)
    stages = stage_seconds(measured.alone, measured.costs)
    fleet = Fleet((measured.costs.ranks,), {measured.costs.ranks: measured.costs}, "fitted by the service", stages)
    settings = Settings()
    rules = SimRules(tell=False, step_tokens=settings.step_tokens, max_running=settings.max_running)
    simulation = Simulation(
        trace, workload(preset, trace), fleet, policy_of(policy, ranks=fleet.fastest, gpus=fleet.gpus), rules
    )
    simulated = [outcome.latency or 0.0 for outcome in simulation.run()]
    real = [_latency(job) for job in measured.jobs]
    mean = statistics.fmean(simulated) / statistics.fmean(real)
    return {
        "jobs": len(trace),
        "seconds": max(job.finished_at or 0.0 for job in measured.jobs) - measured.jobs[0].created_at,
        "stages": vars(stages),
        "step_error": measured.costs.error,
        "measured": _described(real),
        "simulated": latencies(simulation.outcomes),
        "ratio": mean,
        "median_job_error": statistics.median(abs(s - r) / r for s, r in zip(simulated, real, strict=True)),
        "met": abs(mean - 1) <= GOAL,
        "each": [
            {"shape": job.shape, "steps": job.steps, "arrival": job.arrival, "measured": r, "simulated": s}
            for job, r, s in zip(trace, real, simulated, strict=True)
        ],
    }


def stage_seconds(alone: Sequence[Job], costs: StepCosts) -> StageSeconds:
    """Return what stages take by jobs that had the service to themselves; what no stage explains is `every` job's."""
    timings = [(job.result or {}).get("timings", {}) for job in alone]
    trace = trace_of(alone)
    pixels = [job.width * job.height * job.frames / 1e6 for job in trace]
    decode = [t.get("decoding", 0.0) + t.get("encoding", 0.0) for t in timings]
    text = statistics.median(t.get("conditioning", 0.0) for t in timings)
    rate = statistics.median(seconds / size for seconds, size in zip(decode, pixels, strict=True))
    steps = [
        sum(s.steps * costs.seconds([Load(s.tokens, s.branches)]) for s in segments)
        for segments in workload(preset_named(MODEL), trace).segments
    ]
    rest = [
        _latency(job) - text - rate * size - seconds for job, size, seconds in zip(alone, pixels, steps, strict=True)
    ]
    return StageSeconds(text=text, encode=0.0, decode=rate, every=max(0.0, statistics.median(rest)))


def page(record: dict[str, Any]) -> str:
    """Format the page."""
    measured, simulated, where = record["measured"], record["simulated"], record["environment"]
    about = where["machine"]
    lines = [
        "# The simulation against a real service",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}; {about['processor']}, {about['usable_cores']} cores. "
        f"{record['jobs']} jobs of nano in {record['seconds']:.0f} s, Poisson arrivals, policy {record['policy']!r}; "
        f"step times as the service's router fitted them, whose median error was {record['step_error']:.1%}.",
        "",
        "| latency | mean | p50 | p95 | p99 |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {' | '.join(f'{found[key]:.2f} s' for key in ('mean', 'p50', 'p95', 'p99'))} |"
            for name, found in (("service", measured), ("simulation", simulated))
        ),
        "",
        f"Simulated mean / measured mean: **{record['ratio']:.3f}**; goal: within {record['goal']:.0%}, "
        f"{'met' if record['met'] else 'missed'}. Median error of a single job: {record['median_job_error']:.1%}.",
    ]
    if (warning := busy(about)) is not None:
        lines += ["", warning]
    return "\n".join(lines) + "\n"


def _kinds() -> list[TraceJob]:
    recipe = TraceRecipe(mix="nano")
    return [
        TraceJob(arrival=0.0, width=w, height=h, frames=round(kind.seconds * _fps()) + 1, steps=kind.steps)
        for kind in MIXES[recipe.mix]
        for w, h in [kind.pixels("16:9")]
    ]


def _fps() -> int:
    return preset_named(MODEL).sampling.fps


def _trace(count: int, load: float, seed: int, alone: Sequence[float]) -> list[TraceJob]:
    """Draw jobs from text, so many and so fast that the engine would be busy for that share of its time."""
    shares = [kind.share for kind in MIXES["nano"]]
    mean = sum(share * seconds for share, seconds in zip(shares, alone, strict=True)) / sum(shares)
    rate = load / mean
    recipe = TraceRecipe(
        mix="nano", rate=rate, seconds=3 * count / rate, tenants=1, fps=_fps(), seed=seed, tasks={"text_to_video": 1.0}
    )
    return generate(recipe)[:count]


def _send(client: VideoClient, trace: Sequence[TraceJob]) -> None:
    """Create the jobs when they arrive, and wait for all of them."""
    start, names = time.monotonic(), []
    for job in trace:
        time.sleep(max(0.0, start + job.arrival - time.monotonic()))
        names.append(_create(client, job))
    for name in names:
        _wait(client, name)


def _create(client: VideoClient, job: TraceJob) -> str:
    return client.create(
        prompt=PROMPT, size=f"{job.width}x{job.height}", frames=job.frames, steps=job.steps, seed=job.steps
    )


def _wait(client: VideoClient, name: str) -> None:
    status = client.wait(name)
    if status.state != "succeeded":
        raise BenchmarkError(f"a job of the service has {status.state}: {status.error}")


def _database(data: Path) -> str:
    return Settings(data_dir=data).database_url


def _latency(job: Job) -> float:
    return (job.finished_at or 0.0) - job.created_at


def _denoising(job: Job) -> float:
    return float((job.result or {}).get("timings", {}).get("denoising", _latency(job)))


def _described(values: Sequence[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        "jobs": len(values),
        "mean": statistics.fmean(values),
        **{n: percentile(values, s) for n, s in shares.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
