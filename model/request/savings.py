"""Decide which steps of a request reuse a velocity and which need no negative branch. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from zoetrope.model.caching.levels import MIN_STEPS, level_of
from zoetrope.model.caching.mask import SKIPPED, high_noise_steps, step_mask
from zoetrope.model.caching.ratios import best_list
from zoetrope.model.request.steps import guided
from zoetrope.model.request.tasks import ModelCard, VideoRequest, Violation


@dataclass(frozen=True)
class Savings:
    """What a request saves: a mask of its steps, "" if all are computed, what is wrong with it, and what may
    surprise."""

    step_mask: str = ""
    bad: tuple[Violation, ...] = ()
    warnings: tuple[str, ...] = ()


def savings_of(request: VideoRequest, card: ModelCard, steps: int, flow_shift: float | None) -> Savings:
    """Choose the steps to compute, and check the interval of guidance.

    Args:
        steps: of a segment. flow_shift: of the request or the model; None: the schedule has none.
    """
    bad = tuple(interval_violations(request, steps))
    if bad or request.quality == "exact":
        return Savings(bad=bad)
    two = card.boundary is not None
    level, field, kind = level_of(request.quality, two), "quality", request.task.kind
    assert level is not None, "exact has returned"
    if card.profile is not None:
        locked = f"{request.quality} cannot be had with the profile {card.profile.name} of {card.name}: give exact"
        return Savings(bad=(Violation(field, locked),))
    if steps < MIN_STEPS:
        few = f"{request.quality} needs {MIN_STEPS} or more steps, this has {steps}: give exact"
        return Savings(bad=(Violation(field, few),))
    found = best_list(card.step_ratios, kind, steps)
    if found is None:
        known = ", ".join(dict.fromkeys(one.kind for one in card.step_ratios)) or "no task"
        missing = (
            f"{request.quality} needs ratios measured for {kind}, {card.name} has them for {known}: give exact, or"
        )
        return Savings(bad=(Violation(field, f"{missing} have zoetrope calibrate measure them"),))
    split = None
    if card.boundary is not None and flow_shift is not None:
        split = high_noise_steps(steps, flow_shift, card.boundary)
    mask = step_mask(found.values, steps, level, split, tuple(_changes(request, steps)))
    warnings = []
    measured = card.default_flow_shift if found.flow_shift is None else found.flow_shift
    if measured is not None and flow_shift != measured:
        warnings.append(
            f"quality: the ratios of {kind} were measured with flow_shift {measured:g}, this has {flow_shift}"
        )
    if SKIPPED not in mask:
        warnings.append(f"quality: {request.quality} computes all of these {steps} steps")
        mask = ""
    return Savings(mask, warnings=tuple(warnings))


def _changes(request: VideoRequest, steps: int) -> Iterator[int]:
    """Yield the steps where guidance begins or ends: the velocity before is of another kind."""
    acts = [guided(steps, request.guidance_start, request.guidance_end, step) for step in range(steps)]
    yield from (step for step in range(1, steps) if acts[step] != acts[step - 1])


def interval_violations(request: VideoRequest, steps: int | None = None) -> Iterator[Violation]:
    """Yield what is wrong with the interval of guidance; without ``steps`` it is not known which of them it holds."""
    start, end = request.guidance_start, request.guidance_end
    for field, value in (("guidance_start", start), ("guidance_end", end)):
        if not (math.isfinite(value) and 0 <= value <= 1):
            yield Violation(field, f"{value} must be from 0 to 1, a share of the steps")
            return
    if start >= end:
        yield Violation("guidance_start", f"{start:g} must be below guidance_end, {end:g}")
    elif steps is not None and not any(guided(steps, start, end, step) for step in range(steps)):
        yield Violation("guidance_end", f"{end:g} leaves none of {steps} steps from guidance_start, {start:g}, on")
