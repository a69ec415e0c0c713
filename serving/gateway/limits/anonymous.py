"""Limit calls that need no key. The oldest call gives way to the newest, so that a probe always gets through."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from zoetrope.serving.gateway.errors.api_error import ApiError


class AnonymousConnections:
    """At most ``each`` calls from one address and ``most`` in total, in one event loop."""

    def __init__(self, each: int, most: int) -> None:
        self._each = each
        self._left = most
        self._tasks: dict[str, deque[asyncio.Task[object]]] = {}

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Hold a place for the current task. If there is none, the oldest call gives its place up: of this address if
        that has reached its own limit, else of the address with the most calls.

        Raises:
            ApiError: this call was the one that gave way.
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
            message = "this call gave way to newer calls without a key"
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
