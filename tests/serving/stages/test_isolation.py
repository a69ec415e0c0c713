"""Jobs side by side in a stage that one of them brings down: it is found, and fails alone."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import serve
from ray.exceptions import ActorDiedError

from tests.draws import draws
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import TextToVideo, VideoRequest
from zoetrope.serving.stages.failures import Remedy, StageError
from zoetrope.serving.stages.isolation import MAX_DEATHS, IsolatedStage

SPEC = resolve(VideoRequest(task=TextToVideo(prompt="a red circle"), steps=1), find_model("nano"), 0)
PAUSE_SECONDS = 0.2  # before a stage is asked again


class Method:
    def __init__(self, answer: Callable[..., Awaitable[Any]]) -> None:
        self.remote = answer


class Process:
    """A stage whose process dies with all that is in it: by a deadly job that has been in it for some turns of the
    loop, or when `kill` is called."""

    def __init__(self, deadly: frozenset[str]) -> None:
        self.alive = Method(self._alive)
        self.work = Method(self._work)
        self.deaths = 0
        self.together = 0  # the most that were in it at a time
        self._deadly = deadly
        self._calls: dict[str, asyncio.Future[None]] = {}

    @property
    def inside(self) -> int:
        return len(self._calls)

    def kill(self) -> None:
        self.deaths += 1
        for call in self._calls.values():
            if not call.done():
                call.set_exception(ActorDiedError())

    async def _alive(self) -> None:
        """At once: it is started anew by then."""

    async def _work(self, job: str, turns: int) -> str:
        end = self._calls[job] = asyncio.get_running_loop().create_future()
        self.together = max(self.together, len(self._calls))
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
                if end.done():
                    break
            if job in self._deadly and not end.done():
                self.kill()
            if not end.done():
                end.set_result(None)
            await end
        finally:
            del self._calls[job]
        return job


async def insist(ward: IsolatedStage, job: str, call: Callable[[Any], Awaitable[str]], pause: float = 0.0) -> str:
    """As the router does; the answer, or why the job failed."""
    while True:
        try:
            return await ward.ask(job, SPEC, call)
        except StageError as failure:
            if failure.remedy is Remedy.END:
                return str(failure)
            await asyncio.sleep(pause)


@given(st.integers(1, 8), st.integers(0, 3), st.integers(0, MAX_DEATHS - 1), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=draws(150), deadline=None)
def test_only_who_brings_it_down_fails(count: int, deadly_count: int, kills: int, several: int, seed: int) -> None:
    """Also when somebody else kills it, less often than makes a culprit."""
    rng = random.Random(seed)
    jobs = [f"j{i}" for i in range(count)]
    deadly = frozenset(rng.sample(jobs, min(deadly_count, count)))
    processes = [Process(deadly) for _ in range(several)]
    ward = IsolatedStage("decoder", *processes, width=rng.choice((None, 1, 2)))

    async def one(job: str) -> str:
        for _ in range(rng.randrange(5)):
            await asyncio.sleep(0)
        return await insist(ward, job, lambda stage: stage.work.remote(job, rng.randrange(9)))

    async def kill() -> None:
        for _ in range(kills):
            for _ in range(rng.randrange(30)):
                await asyncio.sleep(0)
            rng.choice(processes).kill()

    async def all_of_them() -> list[str]:
        killing = asyncio.create_task(kill())
        answers = await asyncio.gather(*map(one, jobs))
        await killing
        return answers

    answers = dict(zip(jobs, asyncio.run(all_of_them()), strict=True))
    why = f"the decoder died {MAX_DEATHS} times while it worked on this job alone"
    assert answers == {job: why if job in deadly else job for job in jobs}
    assert sum(process.deaths for process in processes) <= kills + len(deadly) * (1 + MAX_DEATHS)
    assert (ward.running, ward.waiting) == (0, 0)


async def test_jobs_are_side_by_side_but_for_suspects() -> None:
    process = Process(frozenset())
    ward = IsolatedStage("decoder", process)

    def start(jobs: str, turns: int) -> list[asyncio.Task[str]]:
        return [
            asyncio.create_task(insist(ward, job, lambda stage, job=job: stage.work.remote(job, turns)))  # type: ignore[misc]
            for job in jobs
        ]

    tasks = start("abcd", 20)
    assert await asyncio.gather(*tasks) == list("abcd")
    assert process.together == 4
    suspects = start("xy", 10**6)
    while process.inside < 2:
        await asyncio.sleep(0)
    process.kill()
    process.together = 0
    while not (process.inside == process.together == 1):
        await asyncio.sleep(0)
    (late,) = start("z", 1)
    await asyncio.sleep(0.01)
    assert process.together == 1 and not late.done(), "one suspect is alone, all others wait"
    for task in suspects:
        task.cancel()
    assert await asyncio.wait_for(late, 5) == "z", "a suspect that is cancelled holds nobody up"


async def seated(ward: IsolatedStage, running: int, waiting: int) -> None:
    while (ward.running, ward.waiting) != (running, waiting):
        await asyncio.sleep(0)


async def test_calls_spread_over_the_processes_and_the_rest_wait_by_urgency() -> None:
    processes = [Process(frozenset()) for _ in range(2)]
    ward, ended = IsolatedStage("decoder", *processes, width=2, urgency=lambda job: -ord(job)), list[str]()

    async def one(job: str, turns: int) -> None:
        await insist(ward, job, lambda stage: stage.work.remote(job, turns))
        ended.append(job)

    first = [asyncio.create_task(one(job, 10**6)) for job in "abcd"]
    await seated(ward, 4, 0)
    assert [process.inside for process in processes] == [2, 2]
    rest = [asyncio.create_task(one(job, 1)) for job in "efg"]
    await seated(ward, 4, 3)
    first[0].cancel()
    await asyncio.gather(*rest)
    assert ended == ["g", "f", "e"], "the most urgent first, one after another in the place that is free"
    for task in first:
        task.cancel()
    await asyncio.wait(first)
    assert (ward.running, ward.waiting) == (0, 0)


async def test_a_suspect_holds_up_one_process_of_two() -> None:
    processes = [Process(frozenset()) for _ in range(2)]
    ward = IsolatedStage("decoder", *processes)
    suspects = [
        asyncio.create_task(insist(ward, job, lambda stage, job=job: stage.work.remote(job, 10**6)))  # type: ignore[misc]
        for job in "wxyz"
    ]
    await seated(ward, 4, 0)
    for process in processes:
        process.kill()
        process.together = 0
    await seated(ward, 1, 3)
    assert await insist(ward, "a", lambda stage: stage.work.remote("a", 1)) == "a", (
        "the other process serves all others"
    )
    assert (ward.running, ward.waiting) == (1, 3), "and the suspects run one by one"
    for task in suspects:
        task.cancel()
    await asyncio.wait(suspects)
    assert (ward.running, ward.waiting) == (0, 0)


async def test_work_without_a_job_waits_behind_all_jobs() -> None:
    ward, order = IsolatedStage("decoder", Process(frozenset()), width=1), list[str]()
    first = asyncio.create_task(insist(ward, "a", lambda stage: stage.work.remote("a", 10**6)))
    await seated(ward, 1, 0)

    async def show() -> None:
        async with ward.shared():
            order.append("preview")

    async def work() -> None:
        order.append(await insist(ward, "b", lambda stage: stage.work.remote("b", 1)))

    later = [asyncio.create_task(show())]
    await seated(ward, 1, 1)
    later.append(asyncio.create_task(work()))
    await seated(ward, 1, 2)
    first.cancel()
    await asyncio.gather(*later)
    assert order == ["b", "preview"]


class Stage:
    """A real process that dies of job "deadly"."""

    async def alive(self) -> None: ...

    async def work(self, job: str, folder: str) -> str:
        """Once two are there together, side by side; later each by itself."""
        (Path(folder) / f"{job}-{os.getpid()}").touch()
        while len({path.name.partition("-")[0] for path in Path(folder).iterdir()}) < 3:
            await asyncio.sleep(0.01)
        if job == "deadly":
            os._exit(1)
        await asyncio.sleep(0.3)  # what is killed in it
        return job


@pytest.fixture
def handle(ray_session: None) -> Iterator[Any]:
    options = {"num_cpus": 0}
    deployment = serve.deployment(
        name="Stage", ray_actor_options=options, health_check_period_s=0.5, graceful_shutdown_timeout_s=0.1
    )(Stage)
    yield serve.run(deployment.bind(), name="ward", route_prefix=None)
    serve.delete("ward")
    serve.shutdown()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_neighbours_of_a_deadly_job_outlive_it(handle: Any, tmp_path: Path) -> None:
    async def all_of_them() -> list[str]:
        ward = IsolatedStage("decoder", handle)

        def one(job: str) -> Awaitable[str]:
            return insist(ward, job, lambda stage: stage.work.remote(job, str(tmp_path)), PAUSE_SECONDS)

        return await asyncio.gather(*map(one, ("a", "deadly", "b")))

    why = f"the decoder died {MAX_DEATHS} times while it worked on this job alone"
    assert asyncio.run(all_of_them()) == ["a", why, "b"]
    processes = {job: len(list(tmp_path.glob(f"{job}-*"))) for job in ("a", "b", "deadly")}
    assert processes == {"a": 2, "b": 2, "deadly": 1 + MAX_DEATHS}, "a neighbour is tried again once"
    assert ray.is_initialized()
