"""Which steps of a segment run the network, and with which guidance branches: from its spec alone.

Router, planner and engines count with these functions, so a price is the number of forward passes that are made.
"""

from __future__ import annotations

from typing import Protocol

from zoetrope.model.caching.mask import SKIPPED
from zoetrope.model.request.kinds import needs_negative

_ROUNDING = 1e-9  # of products such as 0.1 * 30


class SteppedSpec(Protocol):
    """What these functions need of a `model.request.specs.SegmentSpec` or ``VideoSpec``."""

    @property
    def steps(self) -> int: ...
    @property
    def guidance(self) -> float: ...
    @property
    def guidance_start(self) -> float: ...
    @property
    def guidance_end(self) -> float: ...
    @property
    def step_mask(self) -> str: ...
    @property
    def branches(self) -> int: ...


def computes(spec: SteppedSpec, step: int) -> bool:
    """Tell whether a step runs the network; otherwise it reuses the velocity of the one before."""
    return not (step < len(spec.step_mask) and spec.step_mask[step] == SKIPPED)


def step_after(spec: SteppedSpec, step: int) -> int:
    """Return how many steps have been taken after a computed step, number ``step`` from 0, and those that reuse it."""
    step += 1
    while step < spec.steps and not computes(spec, step):
        step += 1
    return step


def step_before(spec: SteppedSpec, step: int) -> int:
    """Invert `step_after`: return where the segment was before its last computed step; at least 0."""
    step -= 1
    while step > 0 and not computes(spec, step):
        step -= 1
    return max(0, step)


def guided(steps: int, start: float, end: float, step: int) -> bool:
    """Tell whether guidance acts in a step, number ``step`` from 0: from ``start * steps`` on, before
    ``end * steps``."""
    return start * steps - _ROUNDING <= step < end * steps - _ROUNDING


def acts(spec: SteppedSpec, step: int) -> bool:
    """Tell whether guidance acts in a step of a segment."""
    return guided(spec.steps, spec.guidance_start, spec.guidance_end, step)


def branch_count(spec: SteppedSpec, step: int | None = None) -> int:
    """Count the guidance branches that a step computes; None: the most of any step. Two become one if the scale is not
    above 1, longer chains do not (`model.denoising.guidance`)."""
    if spec.branches == 2 and not needs_negative(spec.guidance):
        return 1
    return spec.branches if step is None or acts(spec, step) else 1


def forwards(spec: SteppedSpec, start: int = 0) -> int:
    """Count the sequences that go through the network from step ``start`` to the last one, branches by themselves."""
    return sum(branch_count(spec, step) for step in range(start, spec.steps) if computes(spec, step))


def computed_steps(spec: SteppedSpec, start: int = 0) -> int:
    """Count the computed steps from step ``start`` to the last one."""
    return sum(computes(spec, step) for step in range(start, spec.steps))
