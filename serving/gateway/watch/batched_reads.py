"""Reads for many callers at once, as group commit does for writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import Context
from typing import Generic, TypeVar

MAX_BATCH = 500  # items in one read

K = TypeVar("K")
V = TypeVar("V")


class BatchedReads(Generic[K, V]):
    """Callers that come while a read is under way share the next one, so that under load a thread, and a query, serve
    dozens. Nothing is waited for: a lone caller's read starts at once. What a caller gets was read after it asked."""

    def __init__(self, read: Callable[[Sequence[K]], Sequence[V]], threads: Executor | None = None) -> None:
        """
        Args:
            read: the answers to some items, in their order; runs in a thread. What it raises, all its callers get.
            threads: to read in, in place of those that all calls share.
        """
        self._read = read
        self._threads = threads
        self._waiting: list[tuple[K, asyncio.Future[V]]] = []
        self._reader: asyncio.Task[None] | None = None

    async def get(self, item: K) -> V:
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._reader is None:
            # Nobody's in particular: it must not wait in the line of the caller that happens to come first.
            self._reader = asyncio.create_task(self._serve(), context=Context())
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
            items = [item for item, _ in batch]
            answers = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, items)
        except Exception as error:
            for _, future in batch:
                if not future.done():  # its caller was cancelled
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
