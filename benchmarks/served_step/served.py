"""The service: `zoetrope serve` with the model, and jobs whose steps are timed by a client that watches them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from benchmarks.gateway.processes import BenchmarkError
from benchmarks.served_step.work import MIN_STEPS, RATIO, SEED, Work, task_of
from model.presets import find_model
from serving.cli.errors import CliError
from serving.cli.service import ServiceProcess, private_env, serve_command
from serving.client import ClientError, OperationStatus, VideoClient

READY_SECONDS = 1_800.0  # to load the model
# What the bare model has no counterpart of, whatever the environment asks for.
PLAIN = {
    "RANKS": "1",
    "CFG_GROUPS": "1",
    "ENGINES": "1",
    "NOISE_EXPERTS": "together",
    "COMPILE": "0",
    "PREVIEW_STEPS": "0",
}


@dataclass(frozen=True)
class Served:
    """``runs``: of each job, seconds a step. ``between``: the steps that the shortest of them is taken over."""

    runs: list[float]
    between: int
    ready_seconds: float


def measure(work: Work, folder: Path) -> Served:
    """Start a service, have it make the clip, stop it. It has one rank, compiles nothing and makes no previews; all
    else is as usual or as ZOETROPE_* variables say.

    Args:
        folder: an empty one for its data and its log.

    Raises:
        BenchmarkError: it did not start, or a job failed or was begun again.
    """
    started = time.perf_counter()
    env = {**private_env(), **{f"ZOETROPE_{name}": value for name, value in PLAIN.items()}}
    service = ServiceProcess(serve_command(work.model, folder / "data"), folder / "log", env)
    try:
        addresses = service.wait_ready(READY_SECONDS)
        ready_seconds = time.perf_counter() - started
        picture = folder / "picture.png"
        Image.new("RGB", (64, 64), (200, 30, 30)).save(picture)
        with VideoClient(addresses.grpc) as client:
            client.wait(_create(client, replace(work, steps=MIN_STEPS), picture))  # to warm up
            names = (_create(client, work, picture) for _ in range(work.repeats))  # one at a time
            found = [pace((time.perf_counter(), status) for status in client.watch(name)) for name in names]
    except (CliError, ClientError) as error:
        raise BenchmarkError(f"the service: {error}") from None
    finally:
        service.stop()
    return Served([seconds for seconds, _ in found], min(between for _, between in found), ready_seconds)


def _create(client: VideoClient, work: Work, picture: Path) -> str:
    return client.create(
        task=task_of(find_model(work.model), str(picture)),
        size=work.size,
        ratio=RATIO,
        duration_seconds=work.duration,
        steps=work.steps,
        seed=SEED,
    )


def pace(seen: Iterable[tuple[float, OperationStatus]]) -> tuple[float, int]:
    """Seconds a step, from the first step that was seen to the last, and how many steps lie between.

    Args:
        seen: when each status came, in seconds, and the status; the last one is done.

    Raises:
        BenchmarkError: the job did not succeed at once, or too few of its steps were seen.
    """
    steps: list[tuple[float, int]] = []
    status = None
    for at, status in seen:
        if status.state == "denoising" and status.step > (steps[-1][1] if steps else 0):
            steps.append((at, status.step))
    if status is None or status.state != "succeeded":
        reason = None if status is None else status.error or status.state
        raise BenchmarkError(f"a job did not succeed: {reason}")
    if status.attempt > 1:
        raise BenchmarkError(f"a job was begun {status.attempt} times: a process of the service died")
    if len(steps) < 2:
        raise BenchmarkError(f"{len(steps)} of {status.steps} steps were seen: they are too short, take more --steps")
    (first_at, first), (last_at, last) = steps[0], steps[-1]
    return (last_at - first_at) / (last - first), last - first
