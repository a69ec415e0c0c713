"""How long to wait before what failed is tried again."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first: float, longest: float) -> Iterator[float]:
    """Seconds before each next try, without an end: doubled each time, up to ``longest``."""
    while True:
        yield first
        first = min(2 * first, longest)
