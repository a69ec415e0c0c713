"""A router that dies again and again in the middle of work: nothing is lost, and its engine hardly waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.serving.router.harness import EngineDouble, House, until
from zoetrope.cluster.protocol.messages import Report, StepPlan
from zoetrope.serving.jobs.job import State
from zoetrope.serving.router.router import Router

LEASE_SECONDS = 5.0
KILLS = 10


class Door:
    """Where an engine finds whichever router is alive; what a dead one would have answered is not heard."""

    router: Router | None = None

    async def next_plan(self, report: Report) -> StepPlan:
        while True:
            router = self.router
            if router is None:
                await asyncio.sleep(0.01)
                continue
            answer = asyncio.ensure_future(router.next_plan(report))
            while not answer.done() and self.router is router:
                await asyncio.wait([answer], timeout=0.01)
            if self.router is router:
                return answer.result()
            answer.cancel()

    def kill(self) -> Router:
        """Have the router stop wherever it is: it gives nothing back, and writes nothing any more."""
        router, self.router = self.router, None
        assert router is not None
        jobs = [claimed.task for claimed in router._claimed._claimed.values() if claimed.task is not None]
        for task in (*router._loops, *jobs):
            task.cancel()
        return router


async def take(engine: EngineDouble, steps: int) -> None:
    """Have the engine take so many steps."""
    taken = len(engine.taken)
    engine.steps += steps
    await until(lambda: engine.steps == 0 and len(engine.taken) > taken)


@pytest.mark.long
async def test_a_router_killed_ten_times_loses_nothing(build: Callable[..., House]) -> None:
    house = build(max_running=2, lease_seconds=LEASE_SECONDS)
    jobs = [f"job{number:02}" for number in range(30)]
    for number, job_id in enumerate(jobs):
        house.create(job_id, steps=2 + number % 4)
    door: Any = Door()
    engine = EngineDouble(door, house.snapshots)
    dead: list[Router] = []
    door.router = await house.open_router()
    running = asyncio.create_task(engine.run())
    waits: list[float] = []
    for _ in range(KILLS):
        await take(engine, 3)
        dead.append(door.kill())
        killed_at = time.monotonic()
        door.router = await house.open_router()
        await take(engine, 2)  # the one that it was told to take before, and one that the new router says
        waits.append(time.monotonic() - killed_at)
    engine.steps = 10_000
    await until(lambda: all(house.job(job_id).state.final for job_id in jobs), 120)
    assert [house.job(job_id).state for job_id in jobs] == [State.SUCCEEDED] * len(jobs)
    assert {file.split("/")[1] for file in house.files()} == {*jobs}, "each has its clip"
    assert max(waits) < LEASE_SECONDS, "there is other work until the leases of the dead run out"
    assert max(house.job(job_id).attempt for job_id in jobs) > 1
    await door.router.stop()
    running.cancel()
    for router in dead:
        await router._database.close()
