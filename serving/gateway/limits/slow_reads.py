"""Run slow reads, such as lists, a few at a time and in turns of tenants, so that reads of single rows stay fast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.jobs.tenant_turns import TenantTurns

AT_ONCE = 2  # of different tenants; the database has more connections than that
MAX_WAITING = 32  # of one tenant, including the running one

T = TypeVar("T")


class TooManyReads(Picklable):
    """Too many lists of the tenant are waiting."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"lists: {limit} of this tenant are under way, which is the limit; wait for them")
        self.limit = limit


class SlowReads:
    """One per gateway and event loop."""

    def __init__(self) -> None:
        self._shares = TenantTurns[tuple[str, asyncio.Future[None]]]()
        self._under_way: set[str] = set()

    async def run(self, tenant: str, read: Callable[[], T]) -> T:
        """Run ``read`` in a thread when it is the tenant's turn, and return its result.

        Raises:
            TooManyReads: MAX_WAITING reads of the tenant are waiting or running.
        """
        if self._shares.of(tenant) >= MAX_WAITING:
            raise TooManyReads(MAX_WAITING)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (tenant, turn)
        self._shares.put(tenant, waiting)
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._shares.drop(tenant, waiting)
            else:  # the turn came at the same moment
                self._done(tenant, 0.0)
            raise
        started = time.monotonic()
        work = asyncio.ensure_future(asyncio.to_thread(read))
        work.add_done_callback(lambda _: self._done(tenant, time.monotonic() - started))
        return await asyncio.shield(work)  # the thread continues even if the caller leaves

    def _next(self) -> None:
        """Start as many reads as there is room for."""
        while len(self._under_way) < AT_ONCE:
            found = self._shares.get(lambda waiting: not waiting[1].done() and waiting[0] not in self._under_way)
            if found is None:
                return
            tenant, (_, turn) = found
            self._under_way.add(tenant)
            turn.set_result(None)

    def _done(self, tenant: str, seconds: float) -> None:
        self._under_way.discard(tenant)
        self._shares.done(tenant, seconds)
        self._next()
