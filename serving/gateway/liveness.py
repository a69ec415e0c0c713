"""Which engines are alive, and whether this gateway is about to stop."""

from __future__ import annotations

import asyncio

from serving.jobs.job import EngineRow
from serving.jobs.store import JobStore

ENGINE_SECONDS = 5.0  # after which an engine that was not seen counts as gone


class Liveness:
    """Shared by all services of one gateway."""

    def __init__(self, store: JobStore, model: str) -> None:
        self.model = model
        self._store = store
        self._stopping = asyncio.Event()

    def engines(self) -> list[EngineRow]:
        """Engines of the served model that were seen lately."""
        return [engine for engine in self._store.engines(ENGINE_SECONDS) if engine.model == self.model]

    def stop(self) -> None:
        """Makes streams and waits end, so that their clients turn to the next gateway."""
        self._stopping.set()

    async def stopping_within(self, seconds: float) -> bool:
        """Sleep for that long, or until the gateway is about to stop; says whether it is."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True
