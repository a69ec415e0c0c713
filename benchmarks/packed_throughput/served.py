"""Time jobs in a service: one after another, and all at once, on the same engine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.packed_throughput.host import MODULE, STEPS_FILE
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.service import ServiceProcess, private_env
from zoetrope.serving.client import ClientError, VideoClient

READY_SECONDS = 600.0
# One engine, which may hold all jobs; no previews, which diffusers' pipelines do not make either.
PLAIN = {"RANKS": "1", "ENGINES": "1", "PREVIEW_STEPS": "0", "MAX_RUNNING": "64"}


@dataclass(frozen=True)
class ServedRun:
    """Jobs in a service. Times are seconds.

    Attributes:
        makespan: from the first request to the last end.
        busy: the engine's steps. denoising: from the start of its first step to the end of its last.
        steps: the engine's. segments: that shared a step, on average. longest_pause: between two steps.
    """

    makespan: float
    busy: float
    denoising: float
    steps: int
    segments: float
    longest_pause: float

    @property
    def busy_share(self) -> float:
        """The share of the makespan in which the engine computed."""
        return self.busy / self.makespan

    @property
    def dense_share(self) -> float:
        """The share of the time from its first to its last step in which it computed."""
        return self.busy / self.denoising


class MeasuredService:
    """A running service with a client."""

    def __init__(self, client: VideoClient, folder: Path) -> None:
        self.client = client
        self._folder = folder

    def make(self, jobs: Sequence[dict[str, Any]], *, together: bool) -> tuple[ServedRun, list[str]]:
        """Make jobs all at once or one after another; returns the figures and the names of their operations.

        Raises:
            BenchmarkError: a job fails.
        """
        started = time.time()
        if together:
            names = [self.client.create(job) for job in jobs]
            for name in names:
                self._wait(name)
        else:
            names = []
            for job in jobs:
                names.append(self.client.create(job))
                self._wait(names[-1])
        return self._figures(started, time.time()), names

    def _wait(self, name: str) -> None:
        status = self.client.wait(name)
        if status.state != "succeeded":
            raise BenchmarkError(f"a job did not succeed: {status.error or status.state}")

    def _figures(self, started: float, ended: float) -> ServedRun:
        lines = (self._folder / "data" / STEPS_FILE).read_text().splitlines()
        return run_of([json.loads(line) for line in lines], started, ended)


def run_of(noted: Sequence[dict[str, Any]], started: float, ended: float) -> ServedRun:
    """Return the figures of the steps that ended between two times.

    Raises:
        BenchmarkError: there are none.
    """
    steps = sorted((step for step in noted if started <= step["end"] <= ended), key=lambda step: step["end"])
    if not steps:
        raise BenchmarkError("no step was noted")
    begins = [step["end"] - step["seconds"] for step in steps]
    pauses = [begin - step["end"] for begin, step in zip(begins[1:], steps[:-1], strict=True)]
    return ServedRun(
        makespan=ended - started,
        busy=sum(step["seconds"] for step in steps),
        denoising=steps[-1]["end"] - begins[0],
        steps=len(steps),
        segments=sum(step["segments"] for step in steps) / len(steps),
        longest_pause=max([0.0, *pauses]),
    )


@contextmanager
def service(model: str, folder: Path) -> Iterator[MeasuredService]:
    """Run a service with its data and log in ``folder`` within the context.

    Raises:
        BenchmarkError: it does not start, or does not answer.
    """
    env = {**private_env(), **{f"ZOETROPE_{name}": value for name, value in PLAIN.items()}}
    process = ServiceProcess([sys.executable, "-m", MODULE, str(folder / "data"), model], folder / "log", env)
    try:
        with VideoClient(process.wait_ready(READY_SECONDS).grpc) as client:
            yield MeasuredService(client, folder)
    except (CliError, ClientError) as error:
        raise BenchmarkError(f"the service: {error}") from None
    finally:
        process.stop()
