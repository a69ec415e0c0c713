"""A segment between its conditions and its last step, as the router knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.cluster.protocol.messages import Admit, Owner
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.steps import branch_count, computes, step_after
from zoetrope.model.request.tasks import Role


def job_of(segment_id: str) -> str:
    """Return the id of a segment's job."""
    return segment_id.partition("/")[0]


@dataclass
class Active:
    """A segment between its conditions and its last step.

    Attributes:
        tokens: of a step with all its guidance branches.
        owner: by which its snapshots are found. needs: the noise expert of its next step, if they are apart.
        model, tenant, priority, created_at: of its job. following: segments of the job after it.
        deadline: of the job's last step.
        trace: the traceparent of its denoising; "" for none.
        price: of the job when it was accepted, which counts until an engine says what its steps cost.
        engine: that holds it; None while it waits. step: taken there; None until that is known.
        leaving: its engine was told to give it up.
        furthest: the most steps ever taken. redone: how many steps were repeated.
        cohort: of the suspects with which it is tried, 0 for none. losses: of gangs whose process died or hung while it
            was in the step; alone: those with nothing else in it. All count until it is past step ``broke_at``.
    """

    spec: SegmentSpec
    tokens: int
    conditions: Any
    owner: Owner | None = None
    model: str = ""
    tenant: str = ""
    priority: int = 0
    created_at: float = 0.0
    deadline: float | None = None
    following: int = 0
    price: float = 0.0
    trace: str = ""
    needs: Role = "high"
    engine: str | None = None
    leaving: bool = False
    step: int | None = 0
    furthest: int = 0
    redone: int = 0
    cohort: int = 0
    broke_at: int = 0
    losses: int = 0
    alone: int = 0
    _forwards: list[tuple[int, int]] = field(init=False, repr=False)  # from each step on: with one branch, with two

    def __post_init__(self) -> None:
        left = [(0, 0)]
        for step in reversed(range(self.spec.steps)):
            once, twice = left[-1]
            if computes(self.spec, step):
                once, twice = (once, twice + 1) if branch_count(self.spec, step) > 1 else (once + 1, twice)
            left.append((once, twice))
        self._forwards = left[::-1]

    def admission(self) -> Admit:
        """Return what its engine starts it with."""
        return Admit(self.spec, self.conditions, self.owner, trace=self.trace)

    def tokens_at(self, step: int | None) -> int:
        """Count the tokens of a step, number ``step`` from 0; None: it is not known which."""
        return self.tokens * branch_count(self.spec, step) // branch_count(self.spec)

    def next_step(self, running: bool) -> int | None:
        """Return the step to take next, after the running one if there is one; None if that is not known."""
        return step_after(self.spec, self.step) if running and self.step is not None else self.step

    def peak_tokens(self, running: bool) -> int:
        """Count the most tokens of any step from the next one on."""
        start = self.next_step(running)
        if start is None or self.spec.guidance_end >= 1:
            return self.tokens
        return max((self.tokens_at(step) for step in range(start, self.spec.steps)), default=self.tokens)

    def load(self, step: int | None) -> Load:
        """Return what a step takes, number ``step`` from 0; None: the largest."""
        return Load(self.tokens // branch_count(self.spec), branch_count(self.spec, step), len(self.spec.loras))

    def remaining(self, costs: StepCosts, company: float, start: int) -> float:
        """Price what its job still costs from a step on, in GPU-seconds: its share of steps with so many others."""
        (all_once, all_twice), (once, twice) = self._forwards[0], self._forwards[min(start, self.spec.steps)]
        once, twice = once + self.following * all_once, twice + self.following * all_twice
        return costs.ranks * self._seconds(once, twice, lambda load: costs.share_seconds(load, company))

    def alone_seconds(self, costs: StepCosts) -> float:
        """Return what the steps that it must still take would take without any other segment."""
        start = self.furthest if self.step is None else self.step
        once, twice = self._forwards[min(start, self.spec.steps)]
        return self._seconds(once, twice, lambda load: costs.seconds([load]))

    def steps_left(self, start: int) -> int:
        """Count the computed steps from a step on."""
        return sum(self._forwards[min(start, self.spec.steps)])

    def _seconds(self, once: int, twice: int, of: Callable[[Load], float]) -> float:
        """Add up so many steps with one guidance branch and with two; ``of``: seconds of a step."""
        tokens, adapters = self.load(None).tokens, len(self.spec.loras)
        counts = {1: once, 2: twice}
        return sum((count * of(Load(tokens, branches, adapters)) for branches, count in counts.items() if count), 0.0)
