"""Pauses before retries."""

from __future__ import annotations

from collections.abc import Iterator


def backoff(first: float, longest: float) -> Iterator[float]:
    """Yield the seconds before each retry, endlessly: doubled each time, up to ``longest``."""
    while True:
        yield first
        first = min(2 * first, longest)
