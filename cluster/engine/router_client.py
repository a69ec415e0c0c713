"""Sends the messages of an engine's leader to its router, one at a time and in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from zoetrope.cluster.protocol.losses import LOSSES, original
from zoetrope.cluster.protocol.messages import Report, StepPlan, one_line

log = logging.getLogger("zoetrope.engine")

RETRY_SECONDS = 0.2
FAREWELL_SECONDS = 5.0
MAX_REFUSALS = 5  # reports in a row
UNREACHED = (RayError, RayServeException)


class RouterRefused(Exception):
    """The router raises an exception for every report."""


class RouterClient:
    """Waits for a router that is restarting, unless the engine is stopping. A report for which the router's code raises
    an exception would do so again: it is not sent twice, and after several in a row the engine gives up."""

    def __init__(self, router: Any, engine: str, stopping: asyncio.Event) -> None:
        """``router``: a handle with ``next_plan(Report) -> StepPlan`` and ``tell(Report)``."""
        self._router = router
        self._engine = engine
        self._stopping = stopping
        self._refusals = 0

    async def ask(self, report: Report) -> StepPlan:
        """Return the next plan; an empty one if the engine stops before there is one, or the report is refused.

        Raises:
            RouterRefused.
        """
        plan: StepPlan | None = await self._insist(lambda: self._router.next_plan.remote(report))
        return plan if plan is not None else StepPlan()

    async def ask_once(self, report: Report) -> StepPlan:
        """Return the next plan; an empty one if the router does not answer."""
        try:
            plan: StepPlan = await self._router.next_plan.remote(report)
            return plan
        except UNREACHED as error:
            log.warning("engine %s: no plan from the router ahead of time: %s", self._engine, type(error).__name__)
            return StepPlan()

    async def tell(self, report: Report) -> None:
        """Report the outcome of a plan when the next one has been given already.

        Raises:
            RouterRefused.
        """
        await self._insist(lambda: self._router.tell.remote(report))

    async def farewell(self, report: Report) -> None:
        """Send the last report. If the router is stopping too, its successor finds the snapshots."""
        with suppress(*UNREACHED, TimeoutError):
            await asyncio.wait_for(self._router.tell.remote(report), FAREWELL_SECONDS)

    async def _insist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                answer = await call()
            except UNREACHED as error:
                cause = original(error)
                if refused := not isinstance(cause, (*LOSSES, RayServeException)):
                    self._refuse(cause)
                else:
                    log.warning("engine %s: the router does not answer: %s", self._engine, type(cause).__name__)
                if self._stopping.is_set():
                    return None
                await asyncio.sleep(RETRY_SECONDS)
                if refused:
                    return None
            else:
                self._refusals = 0
                return answer

    def _refuse(self, cause: BaseException) -> None:
        self._refusals += 1
        log.error("engine %s: the router refuses a report: %s", self._engine, one_line(cause))
        if self._refusals >= MAX_REFUSALS:
            raise RouterRefused(
                f"the router refused {self._refusals} reports in a row, this one with {one_line(cause)}"
            )
