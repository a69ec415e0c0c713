"""The messages between a router and an engine: plain data; tensors travel as opaque references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.tasks import Role

State = Literal["ready", "rebuilding", "loading", "draining", "out"]


def one_line(error: BaseException) -> str:
    """Format an exception as a reason for a report or a log."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@dataclass(frozen=True)
class Owner:
    """What a segment belongs to. Its snapshots are found by this, on any engine and under any lease.

    Attributes:
        job: its id. index: of the segment in the job. epoch: of the job's lease, the fencing number.
    """

    job: str
    index: int
    epoch: int


@dataclass(frozen=True)
class Admit:
    """Start a segment, or resume it from its newest snapshot. ``conditions`` is a reference to the conditioner's
    output, which the router never opens. Without an ``owner`` the segment has no snapshots."""

    spec: SegmentSpec
    conditions: Any
    owner: Owner | None = None
    snapshot: Any = None  # a reference to the snapshot's bytes, set by the engine's leader
    trace: str = ""  # the traceparent of its denoising


@dataclass(frozen=True)
class StepPlan:
    """The next thing an engine does: drop segments, admit others, then take one step; or load another model.

    Attributes:
        load: the name of a model to load in place of the engine's, after a checkpoint of everything held; "" for none,
            else the plan says nothing more.
        release: segments to write a snapshot of and then drop, before any is admitted.
        advance: the segments of the step, with ``tokens`` in total.
        checkpoint: write snapshots of everything held before the step.
        preview: the segments whose appearance after the step the report should contain.
        prefetch: adapters of segments that are likely to be admitted next, to be read meanwhile.
    """

    drop: tuple[str, ...] = ()
    admit: tuple[Admit, ...] = ()
    advance: tuple[str, ...] = ()
    tokens: int = 0
    checkpoint: bool = False
    preview: tuple[str, ...] = ()
    prefetch: tuple[AdapterUse, ...] = ()
    load: str = ""
    release: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether it leaves the engine as it is."""
        return not (self.drop or self.release or self.advance or self.load)


@dataclass(frozen=True)
class HeldSegment:
    """A segment that an engine holds, and the number of steps that it has taken."""

    id: str
    step: int


@dataclass(frozen=True)
class StepShare:
    """What a segment added to a step: ``branches`` sequences of ``tokens`` each, with ``adapters`` applied to them."""

    id: str
    tokens: int
    branches: int
    adapters: int = 0


@dataclass(frozen=True)
class Finished:
    """A segment that took its last step; ``latents`` is a reference to an array ``[C, T, H, W]`` float32, which is gone
    once the engine is."""

    id: str
    latents: Any


@dataclass(frozen=True)
class Previewed:
    """An estimate of a segment's result after ``step`` steps; ``latents`` as in `Finished`."""

    id: str
    step: int
    latents: Any


@dataclass(frozen=True)
class Failed:
    """A segment that an engine gave up. ``lost``: its conditions are gone, because a process on their way died, or a
    storage did not answer; it can be made with new ones. ``code``: a google.rpc code, as the job ends."""

    id: str
    reason: str
    lost: bool = False
    code: str = "INTERNAL"


@dataclass(frozen=True)
class Broken:
    """A step that brought down the gang, and with it the segments that it held.

    ``raised``: a rank raised an exception, so one of the segments in the step is at fault; otherwise a process died or
    hung, which may be nobody's fault.
    """

    segments: tuple[str, ...]
    reason: str
    raised: bool


@dataclass(frozen=True)
class Restarts:
    """How many gangs an engine has lost so far, by cause: a process ``died``, a step ``hung``, a step ``raised`` an
    exception, or the ``start`` failed."""

    died: int = 0
    hung: int = 0
    raised: int = 0
    start: int = 0


@dataclass(frozen=True)
class Running:
    """The plan that an engine executes while it reports on the one before.

    Attributes:
        admitted: segments that it starts; the report does not list them as held yet.
        tokens: of its step.
    """

    admitted: tuple[str, ...]
    tokens: int


@dataclass(frozen=True)
class LoadFailed:
    """A model whose gang did not start; the engine has loaded the one before it again."""

    model: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What an engine says when it asks for its next plan; it doubles as the heartbeat.

    Attributes:
        gang_epoch: grows when the gang is rebuilt, which loses what the old one held.
        handed_over: segments whose next step is for the other noise expert; their snapshots are written.
        state: only a ready engine gets work. A rebuilding one has lost what it held; one that is loading another
            ``model``, or draining and about to stop, has checkpointed it; one that is out has failed too often in a
            row. broken: the step that killed the gang.
        load_seconds: that it took to load the model. load_failed: what it should have loaded instead.
        restarts: so far. failures: gangs lost in a row, not counting those lost to a step's exception; at
            ``zoetrope.cluster.engine.engine.MAX_FAILURES`` the engine is out.
        step_seconds: of the plan just done, 0 when it had no step.
        shares: what was in that step, for the cost model.
        running: the plan in progress meanwhile. A plan requested then is the one after it.
        device: of a rank, as torch calls it, or "cpu". cfg_groups: of the ranks.
        most_tokens: of a step that fit into the ranks' memory, as planned; 0: not known.
        streaming: share of the layers that are streamed from the host, seconds of copying them once, and tokens of a
            forward pass at most (0: no limit); () for none.
        warmed: steps that the gang took before this, each of one segment, with their seconds.
    """

    engine: str
    gang_epoch: int
    model: str
    role: Role = "both"
    ranks: int = 1
    held: tuple[HeldSegment, ...] = ()
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
    shares: tuple[StepShare, ...] = ()
    running: Running | None = None
    load_seconds: float = 0.0
    load_failed: LoadFailed | None = None
    device: str = ""
    cfg_groups: int = 1
    most_tokens: int = 0
    streaming: tuple[float, ...] = ()
    warmed: tuple[tuple[StepShare, float], ...] = ()

    @property
    def out_of_service(self) -> bool:
        return self.state == "out"
