"""Time the service: `zoetrope serve` with the model, and a client that watches its jobs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.served_step.work import MIN_STEPS, RATIO, SEED, ServedWork, task_of
from zoetrope.model.catalog.presets import find_model
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.service import ServiceProcess, private_env, serve_command
from zoetrope.serving.client import ClientError, OperationStatus, VideoClient

READY_SECONDS = 1_800.0  # to load the model
# Turns off what the bare model has no counterpart of, whatever the environment says.
PLAIN = {
    "RANKS": "1",
    "CFG_GROUPS": "1",
    "ENGINES": "1",
    "NOISE_EXPERTS": "together",
    "COMPILE": "0",
    "PREVIEW_STEPS": "0",
}


@dataclass(frozen=True)
class ServedTiming:
    """``runs``: seconds per step of each job. ``between``: the smallest number of steps that one is averaged over."""

    runs: list[float]
    between: int
    ready_seconds: float


def measure(work: ServedWork, folder: Path) -> ServedTiming:
    """Start a service, time its jobs, and stop it. It has one rank, without compilation and previews; everything else
    is the default or set by ZOETROPE_* variables.

    Args:
        folder: an empty folder for its data and log.

    Raises:
        BenchmarkError: it does not start, or a job fails or is retried.
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
    return ServedTiming([seconds for seconds, _ in found], min(between for _, between in found), ready_seconds)


def _create(client: VideoClient, work: ServedWork, picture: Path) -> str:
    return client.create(
        task=task_of(find_model(work.model), str(picture)),
        size=work.size,
        ratio=RATIO,
        duration_seconds=work.duration,
        steps=work.steps,
        seed=SEED,
    )


def pace(seen: Iterable[tuple[float, OperationStatus]]) -> tuple[float, int]:
    """Return the seconds per step from the first to the last observed step, and the number of steps between them.

    Args:
        seen: pairs of arrival time in seconds and status; the last status is final.

    Raises:
        BenchmarkError: the job failed or was retried, or fewer than two steps were observed.
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
        raise BenchmarkError(f"a job was started {status.attempt} times: a process of the service died")
    if len(steps) < 2:
        raise BenchmarkError(
            f"{len(steps)} of {status.steps} steps were observed: they are too short, use more --steps"
        )
    (first_at, first), (last_at, last) = steps[0], steps[-1]
    return (last_at - first_at) / (last - first), last - first
