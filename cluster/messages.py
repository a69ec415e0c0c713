"""What a router and an engine say to each other: plain data, no tensors but opaque references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from model.tasks import Role, SegmentSpec

State = Literal["ready", "rebuilding", "draining", "out"]


def one_line(error: BaseException) -> str:
    """An exception as a reason in a report or a log."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@dataclass(frozen=True)
class Owner:
    """What a segment is part of; by this its snapshots are found again, on any engine and under any lease.

    Attributes:
        job: its id. index: of the segment in the job. epoch: of the job's lease, the fencing number.
    """

    job: str
    index: int
    epoch: int


@dataclass(frozen=True)
class Admit:
    """Start a segment, or go on with it from its newest snapshot. ``conditions`` is a reference to the conditioner's
    output; the router never opens it. Without an ``owner`` the segment has no snapshots."""

    spec: SegmentSpec
    conditions: Any
    owner: Owner | None = None
    snapshot: Any = None  # a reference to the snapshot's bytes, put in by the engine's leader


@dataclass(frozen=True)
class Plan:
    """The next thing an engine does: forget, start, then take one step with the segments in ``advance``, which have
    so many ``tokens`` together. With ``put_away``, everything held is in snapshots before the step. Of the segments in
    ``preview`` the report brings what they look like after it."""

    drop: tuple[str, ...] = ()
    admit: tuple[Admit, ...] = ()
    advance: tuple[str, ...] = ()
    tokens: int = 0
    put_away: bool = False
    preview: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """A segment that an engine holds and the steps it has behind it."""

    id: str
    step: int


@dataclass(frozen=True)
class Finished:
    """A segment that took its last step; ``latents`` is a reference to ``[C, T, H, W]`` float32."""

    id: str
    latents: Any


@dataclass(frozen=True)
class Previewed:
    """What a segment may come to, as seen after ``step`` steps; ``latents`` as of `Finished`."""

    id: str
    step: int
    latents: Any


@dataclass(frozen=True)
class Failed:
    """A segment that an engine gave up. ``lost``: its conditions are gone, because a process that they passed through
    died; with new ones it can be made."""

    id: str
    reason: str
    lost: bool = False


@dataclass(frozen=True)
class Broken:
    """A step that brought the gang down, and with it what it held.

    ``raised``: a rank raised an exception, so one of the segments in the step is at fault; otherwise a process died or
    hung, which may be nobody's fault.
    """

    segments: tuple[str, ...]
    reason: str
    raised: bool


@dataclass(frozen=True)
class Restarts:
    """Gangs that an engine has lost in its life, by what became of them: a process ``died``, a step ``hung``, a step
    ``raised`` an exception, or they did not get through their ``start``."""

    died: int = 0
    hung: int = 0
    raised: int = 0
    start: int = 0


@dataclass(frozen=True)
class Running:
    """The plan that an engine carries out while it reports on the one before.

    Attributes:
        admitted: segments that it starts; the report does not have them among those held yet.
        tokens: of its step.
    """

    admitted: tuple[str, ...]
    tokens: int


@dataclass(frozen=True)
class Report:
    """What an engine says when it asks for its next plan; it doubles as the heartbeat.

    Attributes:
        gang_epoch: grows when the gang is rebuilt, which loses what the old one held.
        handed_over: segments whose next step is for the other noise expert; their snapshots are written.
        state: only a ready engine gets work. A rebuilding one has lost what it held, a draining one has put it away and
            is about to stop, one that is out has failed too often in a row. broken: the step that the gang died of.
        restarts: so far. failures: gangs lost in a row, those that a step's exception cost left out; at
            ``cluster.engine.MAX_FAILURES`` the engine is out.
        step_seconds: of the plan just done, 0 when it had no step.
        running: the plan that is under way meanwhile. A plan that is asked for then is the one after it.
    """

    engine: str
    gang_epoch: int
    model: str
    role: Role = "both"
    ranks: int = 1
    held: tuple[Held, ...] = ()
    finished: tuple[Finished, ...] = ()
    failed: tuple[Failed, ...] = ()
    previews: tuple[Previewed, ...] = ()
    handed_over: tuple[str, ...] = ()
    state: State = "ready"
    broken: Broken | None = None
    restarts: Restarts = Restarts()
    failures: int = 0
    step_seconds: float = 0.0
    step_tokens: int = 0
    running: Running | None = None

    @property
    def out_of_service(self) -> bool:
        return self.state == "out"
