"""Limit what a caller may hold at a time: a few turns of its own, and more from a pool that all share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

TURN_SECONDS = 30.0  # for which a call waits for its turn


class LimitReached(Exception):
    """The caller holds all the turns that it may have, and none was returned in time."""


@dataclass
class Turn:
    """A turn that is held.

    Attributes:
        rest: seconds for which it stays taken after its holder is done, times the turns that the caller then holds.
    """

    rest: float = 0.0


@dataclass
class _Holder:
    held: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class CallerLimits:
    """Give each caller ``own`` turns that nobody can take from it, and up to ``most`` while the pool of ``common`` ones
    lasts. For one event loop."""

    def __init__(self, own: int, most: int, common: int) -> None:
        self._own = own
        self._most = most
        self._common = common  # turns left in the pool
        self._holders: dict[str, _Holder] = {}

    @asynccontextmanager
    async def turn(self, caller: str, seconds: float = TURN_SECONDS) -> AsyncIterator[Turn]:
        """Hold a turn. The calls of one caller get theirs in order.

        Args:
            seconds: longest wait.

        Raises:
            LimitReached: no turn became free in that time.
        """
        await self._acquire(caller, seconds)
        turn = Turn()
        try:
            yield turn
        finally:
            if turn.rest > 0:
                rest = turn.rest * self._holders[caller].held
                asyncio.get_running_loop().call_later(rest, self._give, caller)
            else:
                self._give(caller)

    async def _acquire(self, caller: str, seconds: float) -> None:
        holder = self._holders.setdefault(caller, _Holder())
        if not holder.waiting and self._may_hold(holder):
            self._hold(holder)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        holder.waiting.append(granted)
        try:
            async with asyncio.timeout(seconds):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():  # at the same moment
                self._give(caller)
            else:
                with suppress(ValueError):  # already taken from the line
                    holder.waiting.remove(granted)
                self._forget(caller, holder)
            if isinstance(error, TimeoutError):
                raise LimitReached from None
            raise

    def _give(self, caller: str) -> None:
        holder = self._holders[caller]
        if holder.held > self._own:
            self._common += 1
        holder.held -= 1
        self._wake(holder)
        if self._common > 0:  # a turn of the pool may go to any caller
            for other in [other for other in self._holders.values() if other.waiting]:
                self._wake(other)
        self._forget(caller, holder)

    def _wake(self, holder: _Holder) -> None:
        while holder.waiting and self._may_hold(holder):
            granted = holder.waiting.popleft()
            if not granted.done():
                self._hold(holder)
                granted.set_result(None)

    def _may_hold(self, holder: _Holder) -> bool:
        return holder.held < self._own or (holder.held < self._most and self._common > 0)

    def _hold(self, holder: _Holder) -> None:
        holder.held += 1
        if holder.held > self._own:
            self._common -= 1

    def _forget(self, caller: str, holder: _Holder) -> None:
        if not holder.held and not holder.waiting:
            self._holders.pop(caller, None)
