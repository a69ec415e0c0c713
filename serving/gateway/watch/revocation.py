"""End what a key started once the key is revoked: a long call is authenticated only at its start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from zoetrope.serving.config.logs import describe
from zoetrope.serving.gateway.auth.authenticator import Principal, Unauthenticated
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.key_table import KeyTable

LOOK_SECONDS = 1.0  # between two looks at the keys whose calls are under way
T = TypeVar("T")
log = logging.getLogger("zoetrope.gateway")


@dataclass
class KeyUse:
    """That of one key, shared by its calls."""

    calls: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self) -> None:
        """Check the key.

        Raises:
            Unauthenticated: it was revoked.
        """
        if self.over.is_set():
            raise Unauthenticated("the API key was revoked")

    async def during(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield the items until the key is revoked.

        Raises:
            Unauthenticated: it was.
        """
        over = asyncio.ensure_future(self.over.wait())
        try:
            while True:
                item = asyncio.ensure_future(anext(items))
                try:
                    await asyncio.wait((item, over), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    item.cancel()  # nothing happens to one that is there
                self.check()
                try:
                    yield item.result()
                except StopAsyncIteration:
                    return
        finally:
            over.cancel()


class RevocationWatch:
    """One per gateway. `run` looks, `stay` tells."""

    def __init__(self, keys: KeyTable) -> None:
        self._keys = keys
        self._stays: dict[str, KeyUse] = {}
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Look at the keys of calls under way, until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                for key_id in await asyncio.to_thread(self._keys.revoked, list(self._stays)):
                    if (stay := self._stays.get(key_id)) is not None:
                        stay.over.set()
            except StoreError as error:
                log.error("the keys of calls under way cannot be read:\n%s", describe(error))
            if not self._stays:
                self._wanted.clear()
            await asyncio.sleep(LOOK_SECONDS)

    @contextmanager
    def stay(self, who: Principal) -> Iterator[KeyUse]:
        """Watch the key of a call for as long as the call lasts. A caller without a key stays as long as it likes."""
        if who.key_id is None:
            yield KeyUse()
            return
        stay = self._stays.setdefault(who.key_id, KeyUse())
        stay.calls += 1
        self._wanted.set()
        try:
            yield stay
        finally:
            stay.calls -= 1
            if not stay.calls and self._stays.get(who.key_id) is stay:
                del self._stays[who.key_id]
