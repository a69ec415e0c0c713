"""Turns at what costs memory before it is a request: some for each caller, whatever others do, and some for all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


class NoTurn(Exception):
    """The caller's own calls hold all turns that it may have, and none of them ended in time."""


@dataclass
class _Holder:
    held: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Turns:
    """A caller has `own` turns that nobody can take from it, and up to `most` while there are common ones. Of one event
    loop."""

    def __init__(self, own: int, most: int, common: int) -> None:
        self._own = own
        self._most = most
        self._common = common  # those that are left
        self._holders: dict[str, _Holder] = {}

    @asynccontextmanager
    async def turn(self, caller: str, seconds: float) -> AsyncIterator[None]:
        """Hold a turn; those of one caller come in order.

        Args:
            seconds: to wait for it at the most.

        Raises:
            NoTurn.
        """
        await self._take(caller, seconds)
        try:
            yield
        finally:
            self._give(caller)

    async def _take(self, caller: str, seconds: float) -> None:
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
                with suppress(ValueError):  # it was passed over already
                    holder.waiting.remove(granted)
                self._forget(caller, holder)
            if isinstance(error, TimeoutError):
                raise NoTurn from None
            raise

    def _give(self, caller: str) -> None:
        holder = self._holders[caller]
        if holder.held > self._own:
            self._common += 1
        holder.held -= 1
        self._wake(holder)
        if self._common > 0:  # whoever gives, what is common goes round
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
