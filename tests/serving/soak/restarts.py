"""A long job ends though the service is stopped and started again twenty times, at any moment of it.

``python -m tests.serving.soak.restarts [--restarts 20] [--postgres]`` prints at which step each restart met the job.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.serving.soak.places import open_places
from tests.serving.soak.run import own_postgres
from tests.serving.soak.service import Service, until
from zoetrope.serving.client import OperationStatus, VideoClient

FRAMES, STEPS = 33, 1_000
WORK_SECONDS = 60.0  # for a service that is ready to take a step further
END_SECONDS = 300.0


@dataclass
class Restarts:
    """``steps``: that the job had behind it at each restart."""

    steps: list[int] = field(default_factory=list)
    state: str = ""
    attempts: int = 0
    error: str = ""
    seconds: float = 0.0
    stopping: list[float] = field(default_factory=list)  # seconds that each stop took


def run(directory: Path, restarts: int, seed: int = 7, postgres: str = "") -> Restarts:
    """Every second restart or so comes as soon as the service is ready, the others once the job has moved on."""
    rng, seen, started = random.Random(seed), Restarts(), time.monotonic()
    with contextlib.ExitStack() as stack:
        places = stack.enter_context(open_places(directory, postgres, s3=False))
        service = Service(directory, places.settings)
        stack.callback(service.kill_all)
        service.start()
        client = stack.enter_context(VideoClient(service.gateways[0].grpc))
        name = client.create(prompt="a red circle moving right", frames=FRAMES, steps=STEPS, seed=seed)
        for _ in range(restarts):
            before = client.get(name)
            if rng.random() < 0.5:
                before = _further(client, name, before.step)
            if before.done:
                break
            seen.steps.append(before.step)
            stopping = time.monotonic()
            status = service.stop()
            assert status == 0, f"it stopped with status {status}"
            seen.stopping.append(time.monotonic() - stopping)
            service.start()
        ended = client.wait(name, END_SECONDS)
    seen.state, seen.attempts, seen.error = ended.state, ended.attempt, str(ended.error or "")
    seen.seconds = time.monotonic() - started
    return seen


def _further(client: VideoClient, name: str, step: int) -> OperationStatus:
    """Once the job has more steps behind it than that, or is done."""

    def moved() -> OperationStatus | None:
        now = client.get(name)
        return now if now.done or now.step > step else None

    status = until(moved, WORK_SECONDS, f"the job goes on from step {step}")
    assert status is not None
    return status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL of its own instead of SQLite")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="zoetrope-soak-") as folder, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(own_postgres()) if options.postgres else ""
        seen = run(Path(folder), options.restarts, options.seed, postgres)
    print(f"{len(seen.steps)} restarts at steps {' '.join(map(str, seen.steps))} of {STEPS} in {seen.seconds:.0f} s")
    print(f"stops took {min(seen.stopping):.1f} to {max(seen.stopping):.1f} s")
    print(f"{seen.state} {seen.error}after {seen.attempts} attempts")
    raise SystemExit(seen.state != "succeeded" or len(seen.steps) < options.restarts)


if __name__ == "__main__":
    main()
