"""Runs coroutines for callers that block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeVar

from zoetrope.serving.client.types import ClientError

T = TypeVar("T")
END = object()
BROKEN = "this process was forked while a client was in use; fork before that, or start processes with spawn"


class Portal:
    """An event loop in a background thread, which starts with the first call.

    Safe to use from several threads, and inside a running event loop. After a fork with no call in progress, parent and
    child each continue with a loop of their own. During a call only the parent continues: clients raise in the child,
    unless grpc's own threads crash there first (github.com/grpc/grpc/issues/32992).
    """

    def __init__(self, disconnect: Callable[[], Awaitable[None]]) -> None:
        """
        Args:
            disconnect: awaited in the loop before it ends.
        """
        self._disconnect = disconnect
        self._lock = threading.RLock()  # reentrant: garbage collection may close an iterator anywhere
        self._loop: _LoopThread | None = None
        self._uses = 0
        self._closed = False
        _forks.add(self)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what the coroutine returns. An exception here, such as KeyboardInterrupt, cancels it.

        Raises:
            ValueError: the portal is closed.
            RuntimeError: the process was forked while a client was in use.
            ClientError: CANCELLED, it was closed meanwhile.
        """
        with self._used():
            future = self._start(coroutine)
            try:
                return future.result()
            except concurrent.futures.CancelledError:
                raise ClientError("CANCELLED", "the client was closed") from None
            except BaseException:
                future.cancel()
                raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield the items one by one, each made when it is asked for."""
        turn = asyncio.Lock()

        async def following() -> Any:
            async with turn:
                return await anext(items, END)

        async def finish() -> None:
            async with turn:  # behind a cancelled `following`
                await items.aclose()

        with self._used():
            try:
                while (item := self.run(following())) is not END:
                    yield item
            finally:
                with self._lock:
                    if self._loop is not None:
                        self._start(finish())  # not awaited: garbage collection may run this in the loop's own thread

    def close(self) -> None:
        """Cancel all calls and end the thread."""
        self._closed = True
        self._stop()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        with self._lock:
            if self._closed or _forks.broken:
                coroutine.close()
                raise ValueError("the client is closed") if self._closed else RuntimeError(BROKEN)
            if self._loop is None:
                self._loop = _LoopThread(self._disconnect)
                self._loop.start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop.loop)

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        with self._lock:
            self._uses += 1
        try:
            yield
        finally:
            with self._lock:
                self._uses -= 1

    def _stop(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.loop.call_soon_threadsafe(loop.stopping.set)
        if loop is not None and loop is not threading.current_thread():
            loop.join()

    def before_fork(self) -> None:
        """End the loop if it is idle: neither it nor grpc would live on in the child."""
        self._lock.acquire()
        if not self._uses:
            self._stop()

    def after_fork(self, child: bool) -> bool:
        """Let calls in again; False if the loop was busy, which the child lacks."""
        lost = child and self._loop is not None
        if lost:
            self._loop = None
        self._lock.release()
        return not lost


class _LoopThread(threading.Thread):
    """A daemon, so that an interpreter whose client is not closed can end."""

    def __init__(self, disconnect: Callable[[], Awaitable[None]]) -> None:
        super().__init__(name="zoetrope-client", daemon=True)
        self.stopping = asyncio.Event()
        self._disconnect = disconnect
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.loop = self._runner.get_loop()

    def run(self) -> None:
        with self._runner as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self.stopping.wait()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._disconnect()


class _Forks:
    """Stops idle portals for the length of a fork."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: garbage collection may do anything anywhere
        self._portals: weakref.WeakSet[Portal] = weakref.WeakSet()
        self.broken = False  # grpc was busy when this process was forked, and works in no child then
        self._stopped: list[Portal] = []

    def add(self, portal: Portal) -> None:
        with self._lock:
            self._portals.add(portal)

    def before(self) -> None:
        self._lock.acquire()  # until after the fork: a set that grows meanwhile cannot be gone through
        self._stopped = list(self._portals)
        for portal in self._stopped:
            portal.before_fork()

    def after(self, *, child: bool) -> None:
        lost = [portal for portal in self._stopped if not portal.after_fork(child)]
        self.broken = self.broken or bool(lost)
        self._stopped = []
        self._lock.release()


_forks = _Forks()
os.register_at_fork(
    before=_forks.before,
    after_in_parent=partial(_forks.after, child=False),
    after_in_child=partial(_forks.after, child=True),
)
