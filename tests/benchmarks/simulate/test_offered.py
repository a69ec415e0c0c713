"""A drawn trace is exactly as much work as was asked for, however its jobs fell."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from zoetrope.benchmarks.simulate.fleet import Fleet, costs_of
from zoetrope.benchmarks.simulate.generate import TraceRecipe
from zoetrope.benchmarks.simulate.offered import drawn_trace
from zoetrope.benchmarks.simulate.trace import TraceError, TraceJob, stretched
from zoetrope.benchmarks.simulate.workload import preset_named, workload

PRESET = preset_named("bernini-r")


def fleet_of(*engines: int) -> Fleet:
    return Fleet(engines, *costs_of(PRESET, "h100", engines))


def recipe_of(seconds: float = 7_200.0, **more: Any) -> TraceRecipe:
    return TraceRecipe(seconds=seconds, fps=PRESET.sampling.fps, temporal=PRESET.vae.temporal, **more)


@pytest.mark.parametrize("arrivals", ["poisson", "bursty", "ramp"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_steps_take_the_share_of_the_engines_time_that_was_asked_for(arrivals: Any, seed: int) -> None:
    fleet = fleet_of(8, 8, 8, 8)
    recipe = recipe_of(arrivals=arrivals, seed=seed)
    trace, length = drawn_trace(fleet, PRESET, recipe, 0.85)
    work = sum(fleet.denoise_seconds(segments, 8) for segments in workload(PRESET, trace).segments)
    assert work / (4 * length) == pytest.approx(0.85, rel=1e-9)
    assert all(first.arrival <= second.arrival for first, second in pairwise(trace)) and trace[-1].arrival < length
    assert drawn_trace(fleet, PRESET, recipe, 0.85) == (trace, length)
    if arrivals != "ramp":
        largest = max(fleet.denoise_seconds(segments, 8) for segments in workload(PRESET, trace).segments)
        assert abs(length - recipe.seconds) <= largest / (2 * 4 * 0.85) + 1e-6
    else:
        early, late = (
            sum(half * length / 2 <= job.arrival < (half + 1) * length / 2 for job in trace) for half in (0, 1)
        )
        assert early < 0.7 * late


def test_engines_of_several_sizes_get_what_each_can_do() -> None:
    fleet = fleet_of(8, 4, 4)
    trace, length = drawn_trace(fleet, PRESET, recipe_of(), 0.6)
    segments = workload(PRESET, trace).segments
    mean = {ranks: sum(fleet.denoise_seconds(job, ranks) for job in segments) / len(trace) for ranks in (8, 4)}
    assert len(trace) / length == pytest.approx(0.6 * (1 / mean[8] + 2 / mean[4]), rel=1e-9)


def test_too_short_a_time_is_refused() -> None:
    with pytest.raises(TraceError, match=r"hours is 0\.0002\d*: its first job is more work than the engines are to do"):
        drawn_trace(fleet_of(8), PRESET, recipe_of(1.0), 0.85)


def test_deadlines_move_with_their_arrivals() -> None:
    job = TraceJob(arrival=6.0, deadline=9.0, width=64, height=48, frames=9, steps=4)
    (found,) = stretched([job], 0.5, start=2.0)
    assert (found.arrival, found.deadline) == (2.0, 5.0)
