"""Tell which engines are alive, and whether this gateway is about to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from zoetrope.serving.gateway.watch.batched_reads import BatchedReads
from zoetrope.serving.jobs.job import EngineRow
from zoetrope.serving.jobs.store import JobStore

ENGINE_SECONDS = 5.0  # after which an engine that was not seen counts as gone
OUT_SECONDS = 3_600.0
T = TypeVar("T")


class Liveness:
    """Shared by all services of one gateway."""

    def __init__(self, store: JobStore, models: Sequence[str], *, may_sleep: bool = False) -> None:
        """
        Args:
            models: the own names of those served.
            may_sleep: there is no engine while there is nothing to do.
        """
        self.models = tuple(models)
        self._may_sleep = may_sleep
        self._store = store
        self._stopping = asyncio.Event()
        self.draining = False  # it still serves, but new callers should go elsewhere
        self._probes = ThreadPoolExecutor(1, thread_name_prefix="probes")  # never behind what others wait for
        self._seen: BatchedReads[None, list[EngineRow]] = BatchedReads(self._read_all, self._probes)

    def engines(self) -> list[EngineRow]:
        """Return the engines of the served models that take work and were seen lately."""
        return [engine for engine in self._served(ENGINE_SECONDS) if engine.working]

    def takes_work(self, rows: Sequence[EngineRow]) -> bool:
        """Tell from what `seen` returned whether jobs will be made: by an engine that is ready, or by one that is
        started for them, and that this gateway is not about to stop."""
        if self.draining:
            return False
        if any(engine.working for engine in rows):
            return True
        return self._may_sleep and not any(engine.state == "out" for engine in rows)

    def all_engines(self) -> list[EngineRow]:
        """Return all that were seen lately, and those ("out") that failed too often in a row and were taken out within
        the last hour."""
        lately = {engine.id: engine for engine in self._served(ENGINE_SECONDS)}
        out = {engine.id: engine for engine in self._served(OUT_SECONDS) if engine.state == "out"}
        return list((lately | out).values())

    async def seen(self) -> list[EngineRow]:
        """Return `all_engines`, read once for all who ask at the same time."""
        return await self._seen.get(None)

    def _read_all(self, asked: Sequence[None]) -> list[list[EngineRow]]:
        return [self.all_engines()] * len(asked)

    def _served(self, seconds: float) -> list[EngineRow]:
        return [engine for engine in self._store.engines(seconds) if engine.model in self.models]

    def drain(self, seconds: float) -> None:
        """Say from now on that nothing is ready here, and `stop` after so long; at once where this was said before."""
        if self.draining or seconds <= 0:
            self.stop()
        else:
            asyncio.get_running_loop().call_later(seconds, self.stop)
        self.draining = True

    def stop(self) -> None:
        """Make streams and waits end, so that their clients turn to the next gateway."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether the gateway is about to stop."""
        return self._stopping.is_set()

    async def stopping_within(self, seconds: float) -> bool:
        """Sleep for that long, or until the gateway is about to stop; return whether it is."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def until_stopping(
        self, items: AsyncIterator[T], end: float | None = None, over: asyncio.Event | None = None
    ) -> AsyncIterator[T]:
        """Yield the items until the gateway stops, ``over`` is set, or ``end`` on the monotonic clock."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stopping, over) if event is not None]
        try:
            while True:
                item = asyncio.ensure_future(anext(items))
                left = None if end is None else max(0.0, end - time.monotonic())
                try:
                    await asyncio.wait((item, *waits), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not item.done():
                        item.cancel()
                        with suppress(asyncio.CancelledError, StopAsyncIteration):
                            await item
                if item.cancelled():
                    return
                try:
                    yield item.result()
                except StopAsyncIteration:
                    return
        finally:
            for wait in waits:
                wait.cancel()
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
