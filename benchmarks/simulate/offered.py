"""Draw a trace whose work is exactly the share that was asked for of what a fleet can do."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from zoetrope.benchmarks.simulate.fleet import Fleet
from zoetrope.benchmarks.simulate.generate import TraceRecipe, generate, sample
from zoetrope.benchmarks.simulate.trace import TraceError, TraceJob, stretched
from zoetrope.benchmarks.simulate.workload import workload
from zoetrope.model.families.family import Preset

HOUR = 3_600.0
SAMPLED = 2_000  # jobs from which the mean cost of a mix is estimated
MOST_JOBS = 1_000_000
SPARE = 2.0  # times the asked length that is drawn, and again, until there is enough work


def drawn_trace(fleet: Fleet, preset: Preset, recipe: TraceRecipe, load: float) -> tuple[list[TraceJob], float]:
    """Draw a trace whose jobs' steps, each alone, take exactly ``load`` of the engines' time, and return its length.

    Few jobs, or bursts, come to more or less work than their rate says. So as many of the jobs are kept as come nearest
    to the work of the recipe's length, or all of a ramp, and their arrivals are stretched to the length that makes the
    share exact; so it differs from the recipe's by at most half of what one job takes of the engines' time. The
    recipe's own rate is not used.

    Returns:
        The jobs, and the length in seconds.

    Raises:
        TraceError: a single job is more work than the engines are to do in the recipe's length, or there are too many.
    """
    recipe = replace(recipe, rate=_rate(fleet, preset, recipe, load))
    if (jobs := recipe.rate * recipe.seconds) > MOST_JOBS:
        hours = recipe.seconds / HOUR
        raise TraceError(f"load is {load:g}: about {jobs:.3g} jobs in {hours:g} hours, must be at most {MOST_JOBS:,}")
    ramp = recipe.arrivals == "ramp"
    length = recipe.seconds if ramp else SPARE * recipe.seconds
    trace = generate(replace(recipe, seconds=length))
    lengths = lengths_of(fleet, preset, trace, load)
    if ramp:
        kept, end = len(trace), recipe.seconds
    else:
        while len(lengths) < 2 or lengths[-2] <= recipe.seconds:
            length *= SPARE
            trace = generate(replace(recipe, seconds=length))
            lengths = lengths_of(fleet, preset, trace, load)
        over = next(number for number, seconds in enumerate(lengths) if seconds > recipe.seconds)
        below = lengths[over - 1] if over else 0.0
        kept = over if recipe.seconds - below <= lengths[over] - recipe.seconds else over + 1
        end = trace[kept].arrival
    if not kept:
        raise TraceError(
            f"hours is {recipe.seconds / HOUR:g}: its first job is more work than the engines are to do in that time"
        )
    exact = lengths[kept - 1]
    return stretched(trace[:kept], exact / end), exact


def lengths_of(fleet: Fleet, preset: Preset, trace: Sequence[TraceJob], load: float) -> list[float]:
    """Return, for the first n jobs of a trace for each n from 1, the seconds of which their steps, each alone, take a
    share ``load`` of the engines' time. Engines of several sizes get jobs as fast as each can do them."""
    segments = workload(preset, trace).segments
    counts = Counter(fleet.engines)
    sums = [accumulate([fleet.denoise_seconds(job, ranks) for job in segments]) for ranks in counts]
    return [
        1 / (load * sum(engines / seconds for engines, seconds in zip(counts.values(), done, strict=True)))
        for done in zip(*sums, strict=True)
    ]


def _rate(fleet: Fleet, preset: Preset, recipe: TraceRecipe, load: float) -> float:
    """Return the jobs a second that would be such a load on average."""
    drawn = workload(preset, sample(recipe, SAMPLED)).segments
    mean = {
        ranks: statistics.fmean(fleet.denoise_seconds(segments, ranks) for segments in drawn)
        for ranks in set(fleet.engines)
    }
    return load * sum(1 / mean[ranks] for ranks in fleet.engines)
