"""Reads for many callers at once, as group commit does for writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

MAX_BATCH = 500  # items in one read

K = TypeVar("K")
V = TypeVar("V")


class Together(Generic[K, V]):
    """Callers that come while a read is under way share the next one, so that under load a thread, and a query, serve
    dozens. Nothing is waited for: a lone caller's read starts at once. What a caller gets was read after it asked."""

    def __init__(self, read: Callable[[Sequence[K]], Sequence[V]]) -> None:
        """
        Args:
            read: the answers to some items, in their order; runs in a thread. What it raises, all its callers get.
        """
        self._read = read
        self._waiting: list[tuple[K, asyncio.Future[V]]] = []
        self._reader: asyncio.Task[None] | None = None

    async def get(self, item: K) -> V:
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._reader is None:
            self._reader = asyncio.create_task(self._serve())
        return await future

    async def _serve(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._answer(batch)
        finally:
            self._reader = None

    async def _answer(self, batch: Sequence[tuple[K, asyncio.Future[V]]]) -> None:
        try:
            answers = await asyncio.to_thread(self._read, [item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():  # its caller was cancelled
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
