"""The process of a rank and its messages. Torch and the model are loaded there and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from zoetrope.cluster.protocol.messages import Failed, Finished, HeldSegment, Previewed, StepPlan, StepShare
from zoetrope.cluster.protocol.processes import Process
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.telemetry.logs import about_process
from zoetrope.cluster.telemetry.process import begin
from zoetrope.model.catalog.weights_identity import Hashing
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.runtime.imports import quick_imports


class RankError(Exception):
    """An exception of a rank, as one line: not every library's exceptions can be pickled."""


class RankLost(RankError):
    """The plan was not at fault: the rank lost its device, Ray, or a result of another process."""


@dataclass(frozen=True)
class Place:
    """Where a rank runs."""

    node: str  # Ray's node id
    gpus: tuple[int, ...]
    process: Process
    device: str  # as torch calls it, or "cpu"


@dataclass(frozen=True)
class StepOutcome:
    """The outcome of a plan; the same on every rank, except that only the first hands out latents."""

    held: tuple[HeldSegment, ...] = ()
    finished: tuple[Finished, ...] = ()
    failed: tuple[Failed, ...] = ()
    previews: tuple[Previewed, ...] = ()
    handed_over: tuple[str, ...] = ()
    step_seconds: float = 0.0
    step_tokens: int = 0
    shares: tuple[StepShare, ...] = ()


@dataclass(frozen=True)
class Joined:
    """What a rank says of itself once it is ready; see also the fields of the same names of a
    `cluster.protocol.messages.Report`."""

    warmed: tuple[tuple[StepShare, float], ...] = ()
    streaming: tuple[float, ...] = ()
    most_tokens: int = 0
    phases: tuple[tuple[str, float], ...] = ()  # of the start, with their seconds


class RankProcess:
    """A `cluster.engine.rank.Rank` as a Ray actor, which the engine's leader can start without torch."""

    def __init__(self, card: ModelCard, settings: EngineSettings, about: dict[str, str | int] | None = None) -> None:
        """``about``: what the lines of its log are about."""
        begin("rank")
        about_process(**(about or {}))
        hashing = Hashing(card)  # beside the imports as well
        with quick_imports():
            from zoetrope.cluster.engine.rank import Rank

        self._rank = Rank(card, settings, hashing)

    def place(self) -> Place:
        """See `cluster.engine.rank.Rank.place`."""
        return self._rank.place()

    def free_address(self) -> str:
        """See `cluster.engine.rank.Rank.free_address`."""
        return self._rank.free_address()

    def join(self, rank: int, address: str) -> Joined:
        """See `cluster.engine.rank.Rank.join`."""
        about_process(rank=rank)
        return self._rank.join(rank, address)

    def execute(self, plan: StepPlan) -> StepOutcome:
        """See `cluster.engine.rank.Rank.execute`."""
        return self._rank.execute(plan)

    def checkpoint(self, seconds: float) -> None:
        """See `cluster.engine.rank.Rank.checkpoint`."""
        self._rank.checkpoint(seconds)
