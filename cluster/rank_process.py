"""The process of a rank, and what it says. What it computes with is loaded there and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.messages import Failed, Finished, Held, Plan, Previewed
from cluster.processes import Process
from cluster.settings import EngineSettings
from model.tasks import ModelCard


class RankError(Exception):
    """What a rank raised, as one line: not every exception of a library arrives where it is sent."""


class RankLost(RankError):
    """Nothing that a rank was asked for is at fault: its device, Ray or what another process had made was lost."""


@dataclass(frozen=True)
class Place:
    """Where a rank runs."""

    node: str  # Ray's id of it
    gpus: tuple[int, ...]
    process: Process
    device: str  # as torch calls it, or "cpu"


@dataclass(frozen=True)
class Outcome:
    """What a plan came to; the same on every rank, save that only the first hands out latents."""

    held: tuple[Held, ...] = ()
    finished: tuple[Finished, ...] = ()
    failed: tuple[Failed, ...] = ()
    previews: tuple[Previewed, ...] = ()
    handed_over: tuple[str, ...] = ()
    step_seconds: float = 0.0
    step_tokens: int = 0


class RankProcess:
    """A `cluster.rank.Rank` as a Ray actor, which the engine's leader can start without torch."""

    def __init__(self, card: ModelCard, settings: EngineSettings) -> None:
        from cluster.rank import Rank

        self._rank = Rank(card, settings)

    def place(self) -> Place:
        """See `cluster.rank.Rank.place`."""
        return self._rank.place()

    def free_address(self) -> str:
        """See `cluster.rank.Rank.free_address`."""
        return self._rank.free_address()

    def join(self, rank: int, address: str) -> None:
        """See `cluster.rank.Rank.join`."""
        self._rank.join(rank, address)

    def execute(self, plan: Plan) -> Outcome:
        """See `cluster.rank.Rank.execute`."""
        return self._rank.execute(plan)

    def put_away(self, seconds: float) -> None:
        """See `cluster.rank.Rank.put_away`."""
        self._rank.put_away(seconds)
