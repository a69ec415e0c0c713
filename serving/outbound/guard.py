"""The only way for requests to URLs that clients supply."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoetrope.serving.outbound.fetch import Fetched, PostResult, fetch, post
from zoetrope.serving.outbound.policy import AddressRules


class Guard(AddressRules):
    """A policy, and the requests that obey it. Stateless, to be shared."""

    async def fetch(self, url: str, *, limit_bytes: int, timeout_seconds: float, to: Path) -> Fetched:
        """See `serving.outbound.fetch.fetch`."""
        return await fetch(self, url, limit_bytes=limit_bytes, timeout_seconds=timeout_seconds, to=to)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> PostResult:
        """See `serving.outbound.fetch.post`."""
        return await post(self, url, body, headers, timeout_seconds)
