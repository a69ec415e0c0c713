"""What policies and the scheduler see of segments, jobs and engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.model.request.tasks import Role


@dataclass(frozen=True, slots=True)
class Work:
    """A segment, or a queued job before its first.

    Attributes:
        created_at: of its job. deadline: of its last step; of the whole job before its first. Both in seconds of the
            clock that is passed as ``now``.
        priority: among its tenant's own.
        remaining: GPU-seconds that its job still costs until then; 0: not known.
        load: of its next step. peak_tokens: of its largest step to come, all guidance branches counted.
        adapters: what it needs in one of an engine's slots (`model.request.loras.slot_key`); () for nothing.
        cohort: 0, or the number of a group of which one may be what an engine failed of; they are tried by themselves.
        role: of the engines that can take its next step; "both": any.
    """

    id: str
    tenant: str
    model: str
    priority: int
    created_at: float
    deadline: float | None
    remaining: float
    load: Load
    peak_tokens: int
    steps_left: int
    adapters: tuple[str, ...] = ()
    cohort: int = 0
    role: Role = "both"


def anything(work: Work) -> bool:
    """Take whatever waits."""
    return True


@dataclass(frozen=True)
class EngineState:
    """An engine that asks what to do next.

    Attributes:
        step_tokens: most tokens of a step. adapter_slots: for different adapters.
        held: the segments that it holds. stepping: ids of those in its newest step.
        takes: tells what it may take of what waits.
    """

    id: str
    model: str
    ranks: int
    role: Role
    step_tokens: int
    adapter_slots: int
    held: tuple[Work, ...]
    costs: StepCosts
    stepping: frozenset[str] = frozenset()
    takes: Callable[[Work], bool] = anything


@dataclass(frozen=True)
class Decision:
    """What an engine does next.

    Attributes:
        admit: waiting segments that join. advance: the segments of the step, those included. What is held and in
            neither waits on the engine.
        drop: held segments to snapshot and give up, for another engine or to make room.
        trial: the step is one of suspects, so everything else that the engine holds should be checkpointed first.
    """

    admit: tuple[str, ...] = ()
    advance: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    trial: bool = False
