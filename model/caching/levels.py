"""The levels of quality that a request may ask for."""

from __future__ import annotations

from zoetrope.model.caching.mask import CacheLevel

MIN_STEPS = 9  # with fewer, such as those of a few-step distill, every step changes too much


def level_of(quality: str, two_experts: bool) -> CacheLevel | None:
    """Return what a level of quality (`model.request.tasks.Quality`) skips; None if nothing.

    The numbers are those of MagCache's own settings for Wan.
    """
    if quality == "balanced":
        return CacheLevel(error=0.06, skips=2, warm_up=0.4 if two_experts else 0.2)
    if quality == "fast":
        return CacheLevel(error=0.12, skips=4, warm_up=0.2)
    return None
