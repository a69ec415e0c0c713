"""The one door through which requests go to addresses that clients name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serving.net.fetch import Fetched, PostResult, fetch, post
from serving.net.policy import Policy


class Guard(Policy):
    """A policy, and the requests that keep to it. Stateless, to be shared."""

    async def fetch(self, url: str, *, limit_bytes: int, timeout_seconds: float, to: Path) -> Fetched:
        """`serving.net.fetch.fetch`."""
        return await fetch(self, url, limit_bytes=limit_bytes, timeout_seconds=timeout_seconds, to=to)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> PostResult:
        """`serving.net.fetch.post`."""
        return await post(self, url, body, headers, timeout_seconds)
