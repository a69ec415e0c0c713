"""What a load needs of a server, whichever API it speaks."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.simulate.trace import TraceJob
from zoetrope.model.runtime.errors import Picklable

PROMPT = "a red circle moving right on a white background"
NOT_PLAIN, PLAIN_LENGTH = re.compile(r"[^\w./:@+ -]"), 128
CHECK_SECONDS = 15.0  # for a server's first answer
Outcome = Literal["succeeded", "failed", "cancelled"]


class TargetRefused(Picklable):
    """A server did not take a job, or lost one. ``kind``: a google.rpc code's name, or ``HTTP 503``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class JobEnding:
    """How a job ended, as its server tells.

    Attributes:
        error: its kind, where it failed. queued: seconds before its work began. video_seconds: of the clip.
        gpu_seconds: that it used; None, as for other figures: the server does not tell.
        attempts: times that it was begun.
    """

    state: Outcome
    error: str = ""
    queued: float | None = None
    video_seconds: float = 0.0
    gpu_seconds: float | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Sight:
    """A job seen on an engine. ``steps``: whether it takes part in the engine's steps at that moment."""

    engine: str
    job: str
    steps: bool


@dataclass(frozen=True)
class Served:
    """The model that a server is asked for. ``gpus``: of all its engines; None: the server does not tell."""

    model: str
    fps: int
    gpus: int | None = None


@dataclass
class FollowedJob:
    """What happens to a job while it is followed. The server calls ``on_preview`` at its first preview."""

    on_start: Callable[[], None] = field(default=lambda: None)
    on_preview: Callable[[], None] = field(default=lambda: None)


class Target(Protocol):
    """A server under load. All but `close` raise `BenchmarkError`, or `TargetRefused`, if it does not answer."""

    async def open(self) -> Served:
        """Connect, and find the model."""

    async def prepare(self, jobs: Collection[TraceJob]) -> None:
        """Check that the server takes such jobs, and make and upload what they refer to.

        Raises:
            BenchmarkError: it does not; the message names the job's task, size and what is wrong.
        """

    async def submit(self, job: TraceJob, seed: int, deadline: float | None) -> str:
        """Send a job and return its name. ``deadline``: seconds since the epoch."""

    async def follow(self, tenant: str, name: str, job: FollowedJob) -> JobEnding:
        """Wait until a job has ended."""

    async def cancel(self, tenant: str, name: str) -> None:
        """Ask for the end of a job."""

    async def sights(self) -> list[Sight] | None:
        """Return what is on the engines now; None if the server does not tell."""

    async def close(self) -> None:
        """End all calls."""


def plain(text: str) -> str:
    """Return a server's word as it can be shown: on one line, short, without what terminals and pages take for more."""
    return NOT_PLAIN.sub("?", text)[:PLAIN_LENGTH]


def key_of(keys: Mapping[str, str], tenant: str) -> str:
    """Return a tenant's API key; ``keys`` may have one for all others under "*"."""
    return keys.get(tenant, keys.get("*", ""))


def describe_job(job: TraceJob) -> str:
    """Name a job's class in errors and reports."""
    words = [job.task.replace("_", " "), f"{job.width}x{job.height}", f"{job.frames} frames", f"{job.steps} steps"]
    if job.quality != "exact":
        words.append(job.quality)
    if job.adapters:
        words.append("+".join(job.adapters))
    return f"{words[0]} {words[1]}, {', '.join(words[2:])}"


def scheme_of(address: str) -> tuple[str, str]:
    """Split ``SCHEME://REST``.

    Raises:
        BenchmarkError: it is none of grpc, grpcs, http and https, or names no host.
    """
    scheme, mark, rest = address.partition("://")
    if not mark or scheme not in ("grpc", "grpcs", "http", "https"):
        raise BenchmarkError(
            f"target: {address!r} must be grpc://HOST:PORT or grpcs://HOST:PORT for Zoetrope's gRPC, or "
            "http://HOST:PORT or https://HOST for OpenAI's videos API"
        )
    host, colon, port = rest.rstrip("/").partition("/")[0].rpartition(":")
    if not (host if colon else port) or (scheme.startswith("grpc") and not (colon and port.isdecimal())):
        raise BenchmarkError(f"target: {address!r} names no {'HOST:PORT' if scheme.startswith('grpc') else 'host'}")
    return scheme, rest.rstrip("/")
