"""Places for those who need no key: the oldest make room for the newest, so that a probe always finds one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from serving.gateway.errors import ApiError


class Newest:
    """So many places for each address and for all. Of one event loop."""

    def __init__(self, each: int, most: int) -> None:
        self._each = each
        self._left = most
        self._tasks: dict[str, deque[asyncio.Task[object]]] = {}

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Hold a place within the current task; that which is held the longest goes for it, of this address or else of
        the one with the most.

        Raises:
            ApiError: this one had to go.
        """
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks.get(address, ())) >= self._each:
            self._end(address)
        elif not self._left:
            self._end(max(self._tasks, key=lambda name: len(self._tasks[name])))
        tasks = self._tasks.setdefault(address, deque())
        tasks.append(task)
        self._left -= 1
        try:
            yield
        except asyncio.CancelledError:
            if task in tasks:  # its client has gone, or the gateway stops
                raise
            task.uncancel()
            message = "newer calls without a key took the place of this one"
            raise ApiError("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS", message) from None
        finally:
            if task in tasks:
                tasks.remove(task)
                self._gave(address)

    def _end(self, address: str) -> None:
        self._tasks[address].popleft().cancel()
        self._gave(address)

    def _gave(self, address: str) -> None:
        self._left += 1
        if not self._tasks[address]:
            del self._tasks[address]
