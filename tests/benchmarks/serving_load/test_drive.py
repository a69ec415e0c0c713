"""Jobs are sent when their time has come, however slow the server is, and what becomes of each is noted."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pytest

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.serving_load.drive import LoadRun, alone, drive
from zoetrope.benchmarks.serving_load.figures import Yardstick, described, fault_figures, figures, steps_needed
from zoetrope.benchmarks.serving_load.target import FollowedJob, JobEnding, Served, Sight, TargetRefused
from zoetrope.benchmarks.simulate.trace import TraceJob

KIND = "text to video 64x48, 9 frames, 4 steps"


def job(arrival: float, **more: Any) -> TraceJob:
    return TraceJob(arrival=arrival, **{"width": 64, "height": 48, "frames": 9, "steps": 4, **more})


@dataclass
class Scripted:
    """A server that ends no job before ``together`` have been sent; ``refused`` and ``failing`` are numbers of jobs."""

    together: int = 1
    refused: frozenset[int] = frozenset()
    failing: frozenset[int] = frozenset()
    sent: list[float | None] = field(default_factory=list)
    sights_seen: list[Sight] | None = None
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> Served:
        return Served("scripted", 8, 2)

    async def prepare(self, jobs: Collection[TraceJob]) -> None:
        pass

    async def submit(self, job: TraceJob, seed: int, deadline: float | None) -> str:
        number = len(self.sent)
        self.sent.append(deadline)
        if len(self.sent) >= self.together:
            self.enough.set()
        if number in self.refused:
            raise TargetRefused("RESOURCE_EXHAUSTED", "the queue is full")
        return f"operations/{number}"

    async def follow(self, tenant: str, name: str, job: FollowedJob) -> JobEnding:
        await self.enough.wait()
        job.on_start()
        job.on_preview()
        if int(name.rpartition("/")[2]) in self.failing:
            return JobEnding("failed", "INTERNAL", attempts=5)
        return JobEnding("succeeded", queued=0.0, video_seconds=1.125, gpu_seconds=0.5, attempts=1)

    async def cancel(self, tenant: str, name: str) -> None:
        pass

    async def sights(self) -> list[Sight] | None:
        return self.sights_seen

    async def close(self) -> None:
        pass


def run(target: Scripted, trace: list[TraceJob], drain: float = 30.0) -> LoadRun:
    return asyncio.run(drive(target, trace, drain=drain))


def test_a_server_that_ends_nothing_yet_gets_all_jobs_all_the_same() -> None:
    target = Scripted(together=5)
    found = run(target, [job(0.02 * number) for number in range(5)])
    assert len(target.sent) == 5 and all(record.state == "succeeded" for record in found.records)
    assert min(record.ended or 0.0 for record in found.records) >= 0.08, "none before the last was sent"
    assert found.records[0].latency is not None and found.records[0].latency >= 0.08


def test_what_does_not_end_in_time_is_unfinished() -> None:
    found = run(Scripted(together=3), [job(0.0), job(0.0)], drain=0.05)
    assert [record.state for record in found.records] == ["unfinished"] * 2 and found.under_way() == found.records
    assert figures(found, Yardstick({}, 3.0))["errors"] == {"unfinished: no answer in time": 2}
    assert fault_figures(found, None, {})["lost"] == 2


def test_deadlines_are_told_and_errors_are_told_apart() -> None:
    target = Scripted(refused=frozenset({1}), failing=frozenset({2}))
    found = run(target, [job(0.0), job(0.0), job(0.0), job(0.0, deadline=60.0)])
    assert [deadline is not None for deadline in target.sent] == [False, False, False, True]
    held = figures(found, Yardstick({KIND: 1e-9}, 3.0, gpus=2, gpu_price=7.2, tokens=lambda job: 100))
    assert (held["jobs"], held["accepted"], held["succeeded"]) == (4, 3, 2)
    assert held["errors"] == {"failed: INTERNAL": 1, "refused: RESOURCE_EXHAUSTED": 1}
    assert held["slo_attainment"] == 0.0, "nobody is as fast as that"
    seconds = held["seconds"]
    assert held["video_seconds_per_second"] == pytest.approx(2.25 / seconds)
    assert held["video_seconds_per_gpu_second"] == pytest.approx(2.25 / seconds / 2)
    assert held["tokens_per_second"] == pytest.approx(200 / seconds)
    assert held["gpu_busy_share"] == pytest.approx(1.0 / (2 * seconds))
    assert held["cost_per_video_second"] == pytest.approx(2 * seconds / 3_600 * 7.2 / 2.25)


def test_the_objective_is_a_multiple_of_the_time_alone() -> None:
    found = run(Scripted(), [job(0.0), job(0.0)])
    assert figures(found, Yardstick({KIND: 100.0}, 3.0))["slo_attainment"] == 1.0
    assert figures(found, Yardstick({}, 3.0))["slo_attainment"] is None
    assert figures(found, Yardstick({}, 3.0))["classes"][0]["alone"] is None


def test_alone_is_the_median_without_the_first_round() -> None:
    times = asyncio.run(alone(Scripted(), [job(5.0, deadline=9.0)], 3, lambda words: None))
    assert list(times) == [KIND] and 0 < times[KIND] < 5.0, "its arrival in the trace is no waiting time"
    with pytest.raises(BenchmarkError, match="warm-up: text to video 64x48, 9 frames, 4 steps did not succeed: INTERN"):
        asyncio.run(alone(Scripted(failing=frozenset({0})), [job(0.0)], 1, lambda words: None))


def test_steps_that_were_taken_twice_are_counted() -> None:
    found = run(Scripted(), [job(0.0), job(0.0)])
    needed = steps_needed(found, lambda job: job.steps)
    assert needed == {"0": 4, "1": 4}
    cost = fault_figures(found, {"0": 4, "1": 7, "another": 50}, needed)
    assert (cost["steps_needed"], cost["steps_redone"], cost["most_redone_by_a_job"]) == (8, 3, 3)
    assert (cost["lost"], cost["failed"], cost["accepted"]) == (0, 0, 2)


def test_what_is_not_known_is_left_out() -> None:
    assert described([None, None]) is None
    found = described([1.0, None, 3.0])
    assert found is not None and (found["count"], found["mean"]) == (2, 2.0)
