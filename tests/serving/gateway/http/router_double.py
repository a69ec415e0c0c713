"""The router's part, played by a thread, for tests of clients that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.serving.gateway.harness import Service
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.jobs.job import Job


@contextmanager
def ending_jobs(service: Service, act: Callable[[Service, Job], None]) -> Iterator[list[Job]]:
    """Takes up every job that comes and ends it."""
    done = threading.Event()
    seen: list[Job] = []

    def run() -> None:
        while not done.wait(0.01):
            for job in claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",)):
                seen.append(job)
                act(service, job)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        try:
            yield seen
        finally:
            done.set()
            future.result(timeout=10)
