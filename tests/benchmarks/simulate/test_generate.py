"""Drawn traces: the same for a seed, and as the recipe says."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
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
        ({"mix": "odd"}, "mix is 'odd', must be one of mixed, "),
        ({"jobs": 5}, "arrivals at once need a number of jobs"),
        ({"arrivals": "at-once"}, "arrivals at once need a number of jobs"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(TraceError, match=problem):
        TraceRecipe(**wrong)
