"""The ranks of one epoch: started together, working in lockstep, killed together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from zoetrope.cluster.engine.rank_process import Joined, Place, RankError, RankLost, RankProcess, StepOutcome
from zoetrope.cluster.planning.groups import Slot
from zoetrope.cluster.planning.placement import sort_ranks
from zoetrope.cluster.protocol.losses import LOSSES, original
from zoetrope.cluster.protocol.messages import StepPlan, one_line
from zoetrope.cluster.protocol.phases import Phases
from zoetrope.cluster.protocol.processes import Process, kill_process
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.runtime.errors import Picklable

log = logging.getLogger("zoetrope.gang")

# After a rank raised: how long the others have to end the step, before they are assumed to wait for it.
SETTLE_SECONDS = 0.5


Loss = Literal["died", "hung", "raised"]


class GangFailed(Picklable):
    """The gang must be rebuilt. ``loss``: a rank died, did not finish in time, or raised an exception."""

    def __init__(self, reason: str, loss: Loss) -> None:
        super().__init__(reason)
        self.loss = loss

    @property
    def raised(self) -> bool:
        return self.loss == "raised"


@dataclass
class _Member:
    actor: Any
    place: Place


class Gang:
    """The ranks, owned by an engine's leader; Ray ends them with it."""

    def __init__(
        self,
        card: ModelCard,
        settings: EngineSettings,
        slots: Sequence[Slot],
        about: Mapping[str, str | int] | None = None,
    ) -> None:
        """
        Args:
            slots: one for each rank. about: what the lines of their logs are about.
        """
        self._card = card
        self._settings = settings
        self._slots = slots
        self._about = dict(about or {})
        self._members: list[_Member] = []
        self._actors: list[Any] = []
        self.joined = Joined()  # of the first rank, once they are ready
        self.phases = Phases()  # of the start, in seconds
        self.device = ""  # of the first rank, as torch calls it

    def places(self) -> list[Place]:
        """Return where the ranks run, in order."""
        return [member.place for member in self._members]

    async def start(self) -> None:
        """Start the ranks, form the process group, load the weights and take a step to warm up.

        Raises:
            GangFailed: a rank died, raised or took longer than ``start_seconds``.
        """
        resources = dict(self._settings.rank_resources)
        cpus, gpus = resources.pop("CPU", 0), resources.pop("GPU", 0)
        for slot in self._slots:
            strategy = PlacementGroupSchedulingStrategy(slot.group, placement_group_bundle_index=slot.bundle)
            actor = ray.remote(RankProcess).options(
                num_cpus=cpus, num_gpus=gpus, resources=resources, scheduling_strategy=strategy
            )
            self._actors.append(actor.remote(self._card, self._settings, self._about))
        deadline = asyncio.get_running_loop().time() + self._settings.start_seconds
        with self.phases.of("processes"):
            places = await self._gather([actor.place.remote() for actor in self._actors], deadline, "start")
        parts = [str(slot.part) for slot in self._slots]
        order = sort_ranks([(place.node, place.gpus) for place in places], parts)
        self._members = [_Member(self._actors[i], places[i]) for i in order]
        self.device = self._members[0].place.device
        address = await self._gather([self._members[0].actor.free_address.remote()], deadline, "start")
        joined = [m.actor.join.remote(rank, address[0]) for rank, m in enumerate(self._members)]
        found = await self._gather(joined, deadline, "start")
        self.joined = found[0]
        for name, seconds in max((one.phases for one in found), key=lambda phases: sum(dict(phases).values())):
            self.phases.add(name, seconds)  # of the slowest rank

    def execute(self, plan: StepPlan) -> list[Any]:
        """Have all ranks execute a plan, after the plans given before it. Returns what `collect` takes."""
        return [m.actor.execute.remote(plan) for m in self._members]

    async def collect(self, results: list[Any], seconds: float) -> StepOutcome:
        """Wait for a plan and return its outcome: the first rank's, because they are all alike.

        Raises:
            GangFailed: a rank died or raised, or the step took more than ``seconds`` from now.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        outcomes = await self._gather(results, deadline, "step")
        outcome: StepOutcome = outcomes[0]
        return outcome

    async def checkpoint(self, seconds: float) -> None:
        """Write snapshots of everything that is held, and wait for them."""
        deadline = asyncio.get_running_loop().time() + seconds
        await self._gather([self._members[0].actor.checkpoint.remote(seconds)], deadline, "drain")

    async def kill(self) -> None:
        """Kill all ranks at once, including stopped ones: a signal needs no cooperation."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        here = ray.get_runtime_context().get_node_id()
        far: list[Any] = []
        for member in self._members:
            process = member.place.process
            if member.place.node == here:
                kill_process(process)
            else:
                far.append(_kill_there(member.place.node, process))
        if far:
            await asyncio.wait(far, timeout=SETTLE_SECONDS)  # its node may be gone as well
        self._actors, self._members = [], []

    async def _gather(self, refs: list[Any], deadline: float, what: str) -> list[Any]:
        """Return all results, or raise the first failure."""
        clock = asyncio.get_running_loop().time
        futures = [asyncio.ensure_future(ref) for ref in refs]
        try:
            done, waiting = await asyncio.wait(
                futures, timeout=max(0.0, deadline - clock()), return_when=asyncio.FIRST_EXCEPTION
            )
            failed = [future for future in done if future.exception() is not None]
            if failed and waiting:
                # A rank that raised says more than those that lost it as a peer.
                done, waiting = await asyncio.wait(futures, timeout=SETTLE_SECONDS)
                failed = [future for future in done if future.exception() is not None]
            if failed:
                raise _failure([future.exception() for future in failed], what)
            if waiting:
                raise GangFailed(f"{len(waiting)} of {len(refs)} ranks did not finish their {what} in time", "hung")
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def _failure(errors: list[BaseException | None], what: str) -> GangFailed:
    """Choose the cause. A death, also of a device, outweighs what its peers raise because of it; among exceptions, one
    of the model's outweighs a lost peer."""
    dead = [error for error in errors if isinstance(error, RayActorError)]
    if dead:
        return GangFailed(f"a rank died in a {what}", "died")
    raised = [error for error in errors if isinstance(error, RayTaskError)]
    for cause in map(original, raised):
        if isinstance(cause, RankLost):
            return GangFailed(f"{cause} in a {what}", "died")
    own = [error for error in raised if not _lost_peer(error)]
    if own:
        cause = original(own[0])
        return GangFailed(str(cause) if isinstance(cause, RankError) else one_line(cause), "raised")
    if raised:
        return GangFailed(f"a rank lost its peers in a {what}", "died")
    loss: Loss = "died" if isinstance(errors[0], LOSSES) else "raised"
    return GangFailed(f"{type(errors[0]).__name__} in a {what}", loss)


def _lost_peer(error: RayTaskError) -> bool:
    """Whether a collective failed because its peer was gone (gloo and NCCL raise plain RuntimeErrors)."""
    text = str(error)
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Timed out waiting")
    return str(original(error)).startswith("Dist") or any(sign in text for sign in signs)


def _kill_there(node: str, process: Process) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    task = ray.remote(kill_process).options(num_cpus=0, scheduling_strategy=strategy, max_retries=0)
    return asyncio.ensure_future(task.remote(process))
