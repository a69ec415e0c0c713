"""Reads that may take long, such as lists: few at a time, so that single rows are read beside them, tenants in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from model.errors import Picklable
from serving.shares import Shares

AT_ONCE = 2  # of all tenants, one of each; a database has more connections
MAX_WAITING = 32  # of a tenant, the one under way included

T = TypeVar("T")


class TooManyReads(Picklable):
    """So many of the tenant's lists wait already."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"lists: {limit} of this tenant are under way, which is the limit; wait for them")
        self.limit = limit


class Reads:
    """One per gateway, for one event loop."""

    def __init__(self) -> None:
        self._shares = Shares[tuple[str, asyncio.Future[None]]]()
        self._under_way: set[str] = set()

    async def run(self, tenant: str, read: Callable[[], T]) -> T:
        """What ``read`` returns, in a thread, when it is the tenant's turn.

        Raises:
            TooManyReads: MAX_WAITING of the tenant's are not done.
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
            else:  # it came at that very moment
                self._done(tenant, 0.0)
            raise
        started = time.monotonic()
        work = asyncio.ensure_future(asyncio.to_thread(read))
        work.add_done_callback(lambda _: self._done(tenant, time.monotonic() - started))
        return await asyncio.shield(work)  # a caller may go, its thread goes on

    def _next(self) -> None:
        """Begin what there is room for."""
        while len(self._under_way) < AT_ONCE:
            found = self._shares.take(lambda waiting: not waiting[1].done() and waiting[0] not in self._under_way)
            if found is None:
                return
            tenant, (_, turn) = found
            self._under_way.add(tenant)
            turn.set_result(None)

    def _done(self, tenant: str, seconds: float) -> None:
        self._under_way.discard(tenant)
        self._shares.done(tenant, seconds)
        self._next()
