"""Jobs are sent when their time has come, however slow the server is, and what becomes of each is noted."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pytest

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.serving_load.drive import JobRecord, LoadRun, alone, drive, strike_now
from zoetrope.benchmarks.serving_load.figures import Yardstick, described, fault_figures, figures, steps_needed
from zoetrope.benchmarks.serving_load.noted_steps import noted_steps
from zoetrope.benchmarks.serving_load.target import FollowedJob, JobEnding, Served, Sight, Target, TargetRefused
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


def line(took: dict[str, int], *finished: str) -> dict[str, Any]:
    """A noted step: segments and the steps that they then have behind them, and those whose last one it was."""
    return {"took": [*took, *finished], "held": took, "finished": list(finished)}


def test_steps_that_were_taken_twice_are_counted() -> None:
    found = run(Scripted(failing=frozenset({1})), [job(0.0), job(0.0), job(0.0)])
    needed = steps_needed(found, lambda job: job.steps)
    assert needed == {"0": 4, "1": 4, "2": 4}
    lines = [line({"0/1/0": n, "1/1/0": n}) for n in (1, 2, 3)]
    lines += [line({"1/1/0": 2}), line({"1/2/0": 3}), line({}, "0/1/0"), line({"another/1/0": 1})]
    lines += [line({"2/1/0": 1}), line({}, "2/1/0"), line({}, "2/2/0"), line({"2/2/1": 1}), line({}, "2/2/1")]
    noted = noted_steps(lines)
    assert {job: (steps.taken, steps.again) for job, steps in noted.items()} == {
        "0": (4, 0),
        "1": (5, 2),
        "2": (5, 1),
        "another": (1, 0),
    }
    cost = fault_figures(found, noted, needed)
    assert found.records[1].state == "failed", "its steps up to its end count as well: 3, and 2 again"
    assert (cost["steps_needed"], cost["steps_redone"], cost["most_redone_by_a_job"]) == (4 + 3 + 4, 0 + 2 + 1, 2)
    assert (cost["lost"], cost["failed"], cost["accepted"]) == (0, 1, 3)


@dataclass(frozen=True)
class Nothing:
    """A fault that does nothing."""

    at: float
    hits_engines: bool

    async def ready(self, run: LoadRun) -> None:
        pass

    async def strike(self, run: LoadRun, target: Target) -> str:
        return "nothing"


@pytest.mark.parametrize(("seen", "hits_engines", "hit"), [(0, True, False), (0, False, True), (1, True, True)])
def test_a_fault_says_how_many_jobs_it_found(seen: int, hits_engines: bool, hit: bool) -> None:
    async def strike() -> LoadRun:
        run = LoadRun(
            [JobRecord(0, job(0.0), "a", sent=0.0), JobRecord(1, job(0.0), "b", sent=0.0), JobRecord(2, job(0.0))]
        )
        run.records[1].state = "succeeded"
        run.on_engines = frozenset({"a"} if seen else {"b", "of another run"})
        await strike_now(run, Scripted(), Nothing(0.0, hits_engines))
        return run

    (struck,) = asyncio.run(strike()).struck
    assert (struck.under_way, struck.on_engines, struck.hit) == (1, seen, hit)


def test_a_fault_among_no_jobs_is_told_as_one_that_hit_nothing() -> None:
    found = asyncio.run(drive(Scripted(), [job(0.0)], drain=5.0, faults=[Nothing(0.2, False)]))
    (row,) = fault_figures(found, None, {})["struck"]
    assert (row["under_way"], row["on_engines"], row["hit"], row["next_end_after"]) == (0, None, False, None)


def test_what_is_not_known_is_left_out() -> None:
    assert described([None, None]) is None
    found = described([1.0, None, 3.0])
    assert found is not None and (found["count"], found["mean"]) == (2, 2.0)
