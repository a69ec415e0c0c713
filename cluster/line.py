"""What an engine's leader says to its router, one message at a time and in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from cluster.losses import LOSSES, original
from cluster.messages import Plan, Report, one_line

log = logging.getLogger("zoetrope.engine")

RETRY_SECONDS = 0.2
FAREWELL_SECONDS = 5.0
MAX_REFUSALS = 5  # reports in a row
UNREACHED = (RayError, RayServeException)


class RouterRefused(Exception):
    """The router raises an exception whatever it is told."""


class Line:
    """Waits for a router that is being restarted, unless the engine is to stop. A report that makes the router's code
    raise an exception would do so again: it is not said twice, and after several in a row the engine gives up."""

    def __init__(self, router: Any, engine: str, stopping: asyncio.Event) -> None:
        """``router``: a handle with ``next_plan(Report) -> Plan`` and ``tell(Report)``."""
        self._router = router
        self._engine = engine
        self._stopping = stopping
        self._refusals = 0

    async def ask(self, report: Report) -> Plan:
        """The next plan; an empty one when the engine is to stop before there is one, or the report is refused.

        Raises:
            RouterRefused.
        """
        plan: Plan | None = await self._insist(lambda: self._router.next_plan.remote(report))
        return plan if plan is not None else Plan()

    async def ask_once(self, report: Report) -> Plan:
        """The next plan; an empty one from a router that does not answer."""
        try:
            plan: Plan = await self._router.next_plan.remote(report)
            return plan
        except UNREACHED as error:
            log.warning("engine %s: no plan from the router ahead of time: %s", self._engine, type(error).__name__)
            return Plan()

    async def tell(self, report: Report) -> None:
        """What came of a plan, where the next one is there already.

        Raises:
            RouterRefused.
        """
        await self._insist(lambda: self._router.tell.remote(report))

    async def farewell(self, report: Report) -> None:
        """The last report. The router may be stopping too; then its successor finds the snapshots."""
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
