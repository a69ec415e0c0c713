"""An engine: the leader of one gang of ranks. It asks the router for plans and has its ranks carry them out."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.messages import Plan, Report
from cluster.rank import Outcome, Rank
from model.tasks import ModelCard

log = logging.getLogger("zoetrope.engine")

RETRY_SECONDS = 0.2


class Engine:
    """One Serve replica. Nobody calls it: it pulls its work, so that no one needs a handle to a particular engine."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, card: ModelCard, router: Any, rank_resources: dict[str, float]
    ) -> None:
        """``router`` is a handle with ``next_plan(Report) -> Plan``; ready when the rank has loaded and warmed up."""
        self._card = card
        self._router = router
        self._rank_resources = rank_resources
        self._id = uuid.uuid4().hex[:12]
        self._epoch = 0
        self._rank: Any = None
        await self._build()
        self._task = asyncio.create_task(self._drive())

    def check_health(self) -> None:
        """Serve replaces the replica when the loop has ended."""
        if self._task.done():
            raise RuntimeError(f"engine {self._id} has stopped")

    async def _build(self) -> None:
        """Start the rank in the gang's placement group under a new epoch; what the old one held is lost."""
        self._epoch += 1
        if self._rank is not None:
            ray.kill(self._rank, no_restart=True)
        group = get_current_placement_group()
        if group is None:
            raise RuntimeError("an engine needs a placement group of its own")
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1)
        resources = self._rank_resources
        actor = ray.remote(Rank).options(
            num_cpus=resources.get("CPU", 0), num_gpus=resources.get("GPU", 0), scheduling_strategy=strategy
        )
        self._rank = actor.remote(self._card)
        await self._rank.__ray_ready__.remote()
        log.info("engine %s: gang epoch %d is ready", self._id, self._epoch)

    async def _drive(self) -> None:
        report = self._report(None)
        while True:
            plan = await self._ask(report)
            try:
                report = self._report(await self._rank.execute.remote(plan))
            except RayActorError as error:
                log.warning("engine %s: rank died in epoch %d: %s", self._id, self._epoch, type(error).__name__)
                await self._build()
                report = self._report(None)

    async def _ask(self, report: Report) -> Plan:
        """The next plan; waits for a router that is being restarted."""
        while True:
            try:
                plan: Plan = await self._router.next_plan.remote(report)
                return plan
            except RayError as error:
                log.warning("engine %s: no plan from the router: %s", self._id, type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    def _report(self, outcome: Outcome | None) -> Report:
        if outcome is None:
            return Report(self._id, self._epoch, self._card.name)
        return Report(
            engine=self._id,
            gang_epoch=self._epoch,
            model=self._card.name,
            held=outcome.held,
            finished=outcome.finished,
            failed=outcome.failed,
            step_seconds=outcome.step_seconds,
            step_tokens=outcome.step_tokens,
        )
