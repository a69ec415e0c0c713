"""A gateway for hostile clients, and what none of its answers may hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.serving.gateway.harness import ROOT, Service, running_service
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.jobs.job import Job, Result, State

VIDEO = bytes(range(256)) * 8
TRACES = ("Traceback (most recent call last)", 'File "', "site-packages", ".py:", "asyncio.exceptions", "sqlite3.")
# Without an engine this is the right answer; a service that cannot do its work has no other 5xx.
EXPECTED_5XX = {("GET", "/readyz", 503), ("GET", "/health", 503)}


class Broken(AssertionError):
    """The gateway answered something that no input may make it answer, or did not answer at all."""


@dataclass
class Target:
    """A running gateway and what it must not tell."""

    service: Service
    secrets: tuple[str, ...]  # of the machine: what no answer may hold
    web: httpx.Client  # keeps no connection open

    @property
    def log(self) -> list[str]:
        """What the gateway has written so far."""
        return self.service.gateway.said().splitlines(keepends=True)

    @property
    def alive(self) -> bool:
        return self.service.gateway.process.poll() is None

    def check(self, status: int, headers: Mapping[str, str], body: bytes, what: str, path: str = "") -> None:
        """
        Raises:
            Broken: an error of ours, or a leak.
        """
        method = what.partition(" ")[0]
        if status >= 500 and (method, path, status) not in EXPECTED_5XX:
            raise Broken(f"{what}: answered {status}: {body[:300]!r}")
        self.check_text(" ".join(f"{name}: {value}" for name, value in headers.items()), what)
        if "video/" not in headers.get("content-type", ""):
            self.check_text(body.decode("utf-8", "replace"), what)

    def check_text(self, text: str, what: str) -> None:
        for secret in (*self.secrets, *TRACES):
            if secret in text:
                start = max(0, text.index(secret) - 100)
                raise Broken(f"{what}: the answer holds {secret!r}: {text[start : start + 300]!r}")

    def check_alive(self) -> None:
        if not self.alive:
            raise Broken("the gateway died:\n" + "".join(self.log[-30:]))
        if self.web.get("/healthz").status_code != 200:
            raise Broken("the gateway is not healthy")

    def errors(self) -> list[str]:
        """Lines of the log that say that something unexpected happened."""
        return [line for line in self.log if "failed unexpectedly" in line or "Unexpected [" in line]


@contextlib.contextmanager
def target(directory: Path, **changes: Any) -> Iterator[Target]:
    """A gateway with the nano model, which serves all six tasks."""
    with (
        running_service(directory, **{"model": "nano", **changes}) as service,
        httpx.Client(base_url=service.http, timeout=20, limits=httpx.Limits(max_keepalive_connections=0)) as web,
    ):
        yield Target(service, (str(directory), str(ROOT)), web)


def finished_job(service: Service, name: str) -> Job:
    """Take up a job, whichever others wait, and end it with a file."""
    job_id = name.removeprefix("operations/")
    for job in claim_oldest(service.store, "hostile", 1_000, 60.0, 5, ("nano",)):
        if job.id == job_id:
            stored = service.artifacts.put_bytes(f"jobs/{job.id}/1/video.mp4", VIDEO, "video/mp4")
            result = Result(stored, None, 16, job.spec["width"], job.spec["height"], 8)
            assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)
            return service.store.get_many([job_id])[job_id]
    raise AssertionError(f"{name} was not waiting")
