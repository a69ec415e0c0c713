"""What an engine's leader says to its router, one message at a time and in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError

from cluster.messages import Plan, Report

log = logging.getLogger("zoetrope.engine")

RETRY_SECONDS = 0.2
FAREWELL_SECONDS = 5.0


class Line:
    """Waits for a router that is being restarted, unless the engine is to stop."""

    def __init__(self, router: Any, engine: str, stopping: asyncio.Event) -> None:
        """``router``: a handle with ``next_plan(Report) -> Plan`` and ``tell(Report)``."""
        self._router = router
        self._engine = engine
        self._stopping = stopping

    async def ask(self, report: Report) -> Plan:
        """The next plan; an empty one when the engine is to stop before there is one."""
        plan: Plan | None = await self._insist(lambda: self._router.next_plan.remote(report))
        return plan if plan is not None else Plan()

    async def ask_once(self, report: Report) -> Plan:
        """The next plan; an empty one from a router that does not answer."""
        try:
            plan: Plan = await self._router.next_plan.remote(report)
            return plan
        except RayError as error:
            log.warning("engine %s: no plan from the router ahead of time: %s", self._engine, type(error).__name__)
            return Plan()

    async def tell(self, report: Report) -> None:
        """What came of a plan, where the next one is there already."""
        await self._insist(lambda: self._router.tell.remote(report))

    async def farewell(self, report: Report) -> None:
        """The last report. The router may be stopping too; then its successor finds the snapshots."""
        with suppress(RayError, TimeoutError):
            await asyncio.wait_for(self._router.tell.remote(report), FAREWELL_SECONDS)

    async def _insist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await call()
            except RayError as error:
                log.warning("engine %s: the router does not answer: %s", self._engine, type(error).__name__)
                if self._stopping.is_set():
                    return None
                await asyncio.sleep(RETRY_SECONDS)
