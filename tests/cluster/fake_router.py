"""Engines with their ranks as real processes, and a router reduced to its board, for tests of what they survive."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tests.serving.router.costs import costs_of_nano
from zoetrope.cluster.engine.engine import Engine
from zoetrope.cluster.engine.rank_process import Place
from zoetrope.cluster.protocol.messages import Owner, Report, Restarts, StepPlan
from zoetrope.cluster.protocol.processes import Process
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.router.active import Active
from zoetrope.serving.router.state import RouterState

LONG_POLL_SECONDS = 0.5
LONGEST_SECONDS = 240.0  # of waiting for an event; a test's own time limit does not interrupt `ray.get`


@dataclass(frozen=True)
class Event:
    """A report, when it came."""

    at: float
    engine: str
    epoch: int
    state: str
    steps: dict[str, int]
    reason: str = ""
    restarts: Restarts = field(default_factory=Restarts)
    failures: int = 0
    out_of_service: bool = False
    running: bool = False


@dataclass
class Ledger:
    """How the segments ended."""

    latents: dict[str, torch.Tensor] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    redone: dict[str, int] = field(default_factory=dict)


class FakeRouter:
    """A Ray actor with the router's methods for engines, the real board behind it, and ways to wait for events."""

    def __init__(self, step_tokens: int = 100_000, engine_timeout: float = 10.0) -> None:
        self._board = RouterState(
            step_tokens, engine_timeout, costs_of_nano, adapter_slots=EngineSettings.adapter_slots
        )
        self._changed = asyncio.Condition()
        self._ledger = Ledger()
        self._events: list[Event] = []
        self._order = 0.0
        self._added: dict[str, Active] = {}
        self._limit = 0

    async def add(
        self, spec: SegmentSpec, conditions: list[Any], owner: Owner | None, tokens: int, model: str = "nano"
    ) -> None:
        """``conditions`` is a list of one reference, which Ray would otherwise resolve."""
        self._order += 1
        self._added[spec.id] = Active(spec, tokens, conditions[0], owner, model=model, created_at=self._order)
        self._board.add(replace(self._added[spec.id]))
        await self._notify()

    async def tell(self, report: Report) -> None:
        now = time.monotonic()
        redone = {i: self._board.active[i].redone for i in self._board.active}
        news = self._board.apply(report, now)
        self._ledger.redone |= {i: s.redone for i, s in self._board.active.items()} | {
            i: redone[i] for i, _ in news.finished
        }
        for segment_id, latents in news.finished:
            try:
                self._ledger.latents[segment_id] = torch.from_numpy(np.array(await latents))
            except RayError:  # its owner died before it was fetched; the router tries the job again as well
                self._board.add(replace(self._added[segment_id]))
        self._ledger.failed |= {failure.id: failure.reason for failure in news.failed}
        steps = {h.id: h.step for h in report.held}
        reason = report.broken.reason if report.broken is not None else ""
        event = Event(
            now,
            report.engine,
            report.gang_epoch,
            report.state,
            steps,
            reason,
            report.restarts,
            report.failures,
            report.out_of_service,
            report.running is not None,
        )
        self._events.append(event)
        self._board.lose_silent_engines(now)
        await self._notify()

    async def next_plan(self, report: Report) -> StepPlan:
        await self.tell(report)
        plan = self._plan(report)
        if report.state == "ready" and report.running is None and not (plan.advance or plan.drop or plan.admit):
            async with self._changed:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), LONG_POLL_SECONDS)
            plan = self._plan(report)
        return plan

    def _plan(self, report: Report) -> StepPlan:
        plan = self._board.plan(report, time.time())
        going = {h.id for h in report.held} if report.running is not None else set()
        return replace(
            plan,
            advance=tuple(i for i in plan.advance if self._board.active[i].furthest + (i in going) < self._limit),
        )

    async def allow(self, steps: int) -> None:
        """From now on segments may get this far."""
        self._limit = steps
        await self._notify()

    async def until_there(self) -> None:
        """All that have not ended are as far as they may."""
        await self._until(lambda: True if all(s.furthest >= self._limit for s in self._board.active.values()) else None)

    async def events(self) -> list[Event]:
        return self._events

    async def ledger(self) -> Ledger:
        return self._ledger

    async def until_state(self, state: str, engine: str, since: float) -> Event:
        """The engine's first report of that state after a time."""
        event: Event = await self._until(
            lambda: next((e for e in self._events if (e.engine, e.state) == (engine, state) and e.at > since), None)
        )
        return event

    async def engine_of(self, segment_id: str) -> str | None:
        return self._board.active[segment_id].engine

    async def until_ended(self, count: int) -> None:
        await self._until(lambda: True if len(self._ledger.latents) + len(self._ledger.failed) >= count else None)

    async def now(self) -> float:
        return time.monotonic()

    async def _until(self, found: Any) -> Any:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: found() is not None), LONGEST_SECONDS)
            return found()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@dataclass
class Leader:
    """An engine's process and its group."""

    actor: Any
    group: PlacementGroup

    def name(self) -> str:
        """The engine's id, once its gang is ready."""
        return str(ray.get(self.actor.name.remote()))

    def ranks(self) -> list[Place]:
        places: list[Place] = ray.get(self.actor.ranks.remote())
        return places

    def process(self) -> Process:
        process: Process = ray.get(self.actor.process.remote())
        return process

    def end(self) -> None:
        ray.kill(self.actor)
        remove_placement_group(self.group)


def start_fake_router(*arguments: Any, **options: Any) -> Any:
    """The actor.

    Args:
        arguments: of `FakeRouter`.
        options: more of Ray's, such as where it has to be.
    """
    return ray.remote(FakeRouter).options(num_cpus=0, max_concurrency=64, **options).remote(*arguments)


def start_engine(card: ModelCard, router: Any, settings: EngineSettings, group: PlacementGroup | None = None) -> Leader:
    """A leader in a placement group of its own, as Serve would make it."""
    if group is None:
        group = placement_group([{"CPU": 0.01}, *[settings.rank_resources] * settings.ranks])
    ray.get(group.ready())
    strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    actor = ray.remote(Engine).options(num_cpus=0.01, scheduling_strategy=strategy, max_concurrency=4)
    return Leader(actor.remote(card, router, settings), group)
