"""Choose the steps that are computed; the others reuse the velocity of the last computed one. Pure functions.

The rule is MagCache's (2506.09045). Its input is a list of ratios, how much the norm of the network's output grows
from each step to the next: while their product stays near 1, the output is taken to change little. The choice depends
on the model and the schedule alone, never on a clip, so it is fixed when a job is admitted: its cost is known, ranks
need not agree on anything, and neighbours in a batch do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

COMPUTED, SKIPPED = "#", "."  # of a mask, one character a step
_ROUNDING = 1e-9  # of products such as 0.2 * 30


@dataclass(frozen=True)
class CacheLevel:
    """How much is skipped.

    Attributes:
        error: largest sum over skipped steps in a row of how far the product of their ratios is from 1.
        skips: most steps skipped in a row.
        warm_up: share of the steps, from the first, that are all computed; with two noise experts, of each one's steps.
    """

    error: float
    skips: int
    warm_up: float


def step_mask(
    ratios: Sequence[Sequence[float]],
    steps: int,
    level: CacheLevel,
    split: int | None = None,
    computed: Collection[int] = (),
) -> str:
    """Return `COMPUTED` or `SKIPPED` for each step. A step is skipped only if every list of ratios allows it.

    The first step, the last one and the first of each noise expert are always computed. The published code counts
    branches rather than steps, which is why the first expert's warm-up is rounded up to whole steps and the second's
    includes its end. Steps that are computed in any case leave the sums unchanged, as there.

    Args:
        ratios: lists of any length, such as one for each guidance branch, see `ratio_at`.
        split: number of steps that the high-noise expert takes; None: there is one network.
        computed: further steps to compute in any case.

    Raises:
        ValueError: there is no list, or an empty one, or fewer than 2 steps.
    """
    if not ratios or not all(ratios) or steps < 2:
        raise ValueError(f"{len(ratios)} lists of ratios for {steps} steps: there must be one, and at least 2 steps")
    first = steps if split is None else split
    start = max(1, math.ceil(int(2 * level.warm_up * first + _ROUNDING) / 2))
    low_start = first + level.warm_up * (steps - first) + _ROUNDING  # inclusive
    products, errors, run, mask = [1.0] * len(ratios), [0.0] * len(ratios), 0, ""
    for step in range(steps):
        if step < min(start, first) or first <= step <= low_start or step == steps - 1 or step in computed:
            mask += COMPUTED
            continue
        run += 1
        for i, values in enumerate(ratios):
            products[i] *= ratio_at(values, step, steps)
            errors[i] += abs(1 - products[i])
        if run <= level.skips and max(errors) < level.error:
            mask += SKIPPED
        else:
            products, errors, run = [1.0] * len(ratios), [0.0] * len(ratios), 0
            mask += COMPUTED
    return mask


def ratio_at(values: Sequence[float], step: int, steps: int) -> float:
    """Return the ratio of a step of a schedule of ``steps``: the nearest entry of the list, as in the published
    code."""
    return values[round(step * (len(values) - 1) / (steps - 1))]


def high_noise_steps(steps: int, flow_shift: float, boundary: float) -> int:
    """Count the steps at noise levels of at least ``boundary``, which the high-noise expert takes.

    The schedule is diffusers' for flows: evenly spaced, then shifted; timesteps are cut to whole numbers of 0 to 1000.
    """
    times = (1 - i * (1 - 1 / 1000) / steps for i in range(steps))
    return sum(int(1000 * flow_shift * t / (1 + (flow_shift - 1) * t)) >= 1000 * boundary for t in times)
