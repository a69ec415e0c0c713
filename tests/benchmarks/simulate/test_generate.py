"""Drawn traces: the same for a seed, and as the recipe says."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.simulate.generate import TraceRecipe, generate
from zoetrope.benchmarks.simulate.mixes import MIXES, TASKS
from zoetrope.benchmarks.simulate.trace import TraceError, TraceJob


def test_a_seed_gives_one_trace_and_another_seed_another() -> None:
    recipe = TraceRecipe(rate=0.2, seconds=1_000, seed=7)
    assert generate(recipe) == generate(recipe)
    assert generate(recipe) != generate(TraceRecipe(rate=0.2, seconds=1_000, seed=8))


@pytest.mark.parametrize("arrivals", ["poisson", "bursty"])
def test_the_rate_is_the_one_asked_for(arrivals: Any) -> None:
    trace = generate(TraceRecipe(arrivals=arrivals, rate=1.0, seconds=3_000, burst=4, seed=1))
    assert len(trace) == pytest.approx(3_000, rel=0.1)
    assert all(first.arrival <= second.arrival for first, second in pairwise(trace))


def test_shares_of_sizes_and_tasks_are_those_of_the_mix() -> None:
    trace = generate(TraceRecipe(mix="mixed", rate=1.0, seconds=3_000, seed=2))
    durations = Counter((job.frames, job.steps) for job in trace)
    drafts = durations[49, 20] / len(trace)
    assert drafts == pytest.approx(MIXES["mixed"][0].share, abs=0.03)
    tasks = Counter(job.task for job in trace)
    assert all(tasks[task] / len(trace) == pytest.approx(share, abs=0.03) for task, share in TASKS.items())
    assert all(bool(job.references) == (job.task == "reference_to_video") for job in trace)


def test_bursts_belong_to_one_tenant_and_tenants_are_of_unequal_size() -> None:
    even = generate(TraceRecipe(arrivals="poisson", rate=1.0, seconds=2_000, tenants=4, seed=3))
    bursty = generate(TraceRecipe(arrivals="bursty", rate=1.0, seconds=2_000, tenants=4, burst=20, seed=3))

    def repeats(trace: list[TraceJob]) -> float:
        return sum(first.tenant == second.tenant for first, second in pairwise(trace)) / len(trace)

    assert repeats(even) < 0.4 < 0.6 < repeats(bursty)
    jobs = Counter(job.tenant for job in even)
    assert jobs["tenant-1"] / jobs["tenant-4"] == pytest.approx(4, rel=0.3)


def test_a_ramp_grows_from_a_fifth_to_nearly_twice_its_mean_rate() -> None:
    trace = generate(TraceRecipe(arrivals="ramp", rate=1.0, seconds=4_000, seed=5))
    assert len(trace) == pytest.approx(4_000, rel=0.1)
    quarters = Counter(int(job.arrival // 1_000) for job in trace)
    assert [quarters[n] / 1_000 for n in range(4)] == pytest.approx([0.4, 0.8, 1.2, 1.6], rel=0.15)


def test_a_mix_from_a_file_is_drawn_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "kinds.jsonl"
    path.write_text(
        '{"share": 3, "task": "edit_video", "size": "64x48", "frames": 16, "steps": 4, "tenant": "acme"}\n'
        '{"size": "480p", "ratio": "drawn", "seconds": 2, "steps": 9, "adapters": ["style"], "quality": "fast",'
        ' "branches": 1, "priority": 2, "deadline": 30}\n'
    )
    trace = generate(TraceRecipe(mix=str(path), rate=1.0, seconds=2_000, tenants=2, seed=4))
    edits = [job for job in trace if job.steps == 4]
    others = [job for job in trace if job.steps == 9]
    assert len(edits) / len(trace) == pytest.approx(0.75, abs=0.03) and len(edits) + len(others) == len(trace)
    assert {(job.task, job.width, job.height, job.frames, job.tenant) for job in edits} == {
        ("edit_video", 64, 48, 16, "acme")
    }
    assert {job.width > job.height for job in others} == {True, False}, "some are on end"
    assert {job.tenant for job in others} == {"tenant-1", "tenant-2"} and len({job.task for job in others}) == 6
    one = others[0]
    assert (one.adapters, one.quality, one.branches, one.priority) == (("style",), "fast", 1, 2)
    assert one.deadline == pytest.approx(one.arrival + 30)


def test_all_at_once_is_an_exact_number() -> None:
    trace = generate(TraceRecipe(arrivals="at-once", jobs=250))
    assert len(trace) == 250 and {job.arrival for job in trace} == {0.0}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"rate": 0.0}, "rate is 0.0, must be above 0"),
        ({"seconds": -1.0}, "seconds is -1.0, must be above 0"),
        ({"tenants": 0}, "tenants is 0, must be at least 1"),
        ({"burst": 0.5}, "burst is 0.5, must be at least 1"),
        ({"burst_gap": 0.0}, "burst_gap is 0.0, must be above 0"),
        ({"rate": float("inf")}, "rate is inf, must be above 0"),
        ({"arrivals": "odd"}, "arrivals is 'odd', must be one of poisson, bursty, ramp, at-once"),
        ({"mix": "odd"}, "mix is 'odd', must be one of mixed, "),
        ({"jobs": 5}, "arrivals at once need a number of jobs"),
        ({"arrivals": "at-once"}, "arrivals at once need a number of jobs"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(TraceError, match=problem):
        TraceRecipe(**wrong)
