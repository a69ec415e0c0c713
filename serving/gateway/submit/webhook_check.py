"""Refuse a webhook that would be dropped when it is sent."""

from __future__ import annotations

import asyncio

from cachetools import TTLCache

from zoetrope.serving.outbound import FetchFailed, FetchRefused, Guard, NotPublic

LOOKUP_SECONDS = 2.0
KEPT_SECONDS = 60.0  # a batch names the same host many times, and a resolver that does not answer is asked once
KEPT = 1_024
HINT = "; the setting allow_networks names the private networks that may be called"


class WebhookCheck:
    """Tells whether a webhook's address may be called, by the rules that hold when it is sent. That is checked again
    then, for a name may lead elsewhere by that time."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._hosts: TTLCache[tuple[str, int], str | None] = TTLCache(KEPT, KEPT_SECONDS)

    async def problem(self, url: str) -> str | None:
        """Tell why the address is refused; None: it is not, as far as it is known. A name without an address may get
        one before the first message leaves."""
        try:
            target = self._guard.check(url)
        except FetchRefused as error:
            return _described(error)
        place = (target.host, target.port)
        if place not in self._hosts:
            self._hosts[place] = await self._lookup(*place)
        return self._hosts[place]

    async def _lookup(self, host: str, port: int) -> str | None:
        try:
            await asyncio.wait_for(self._guard.addresses(host, port), LOOKUP_SECONDS)
        except FetchRefused as error:
            return _described(error)
        except (FetchFailed, TimeoutError):
            pass
        return None


def _described(error: FetchRefused) -> str:
    return f"{error}{HINT if isinstance(error, NotPublic) else ''}"
