"""What is kept of a costly computation: so many bytes, the least recently used giving way."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.model.runtime.byte_cache import ByteCache, CacheFigures


def test_a_value_is_made_once_and_counted() -> None:
    cache: ByteCache[str] = ByteCache(10, len)
    made: list[str] = []

    def make() -> str:
        made.append("four")
        return "four"

    assert [cache.get("a", make) for _ in range(3)] == ["four"] * 3
    assert made == ["four"] and cache.figures == CacheFigures(hits=2, misses=1, bytes=4)


def test_the_least_recently_used_gives_way() -> None:
    cache: ByteCache[str] = ByteCache(10, len)
    for key in "ab":
        cache.get(key, lambda: "xxxxx")
    cache.get("a", lambda: pytest.fail("a is there"))
    cache.get("c", lambda: "yyyyy")
    cache.get("a", lambda: pytest.fail("a was used after b"))
    assert cache.get("b", lambda: "anew") == "anew"


def test_what_is_larger_than_the_cache_is_not_kept_and_drives_nothing_out() -> None:
    cache: ByteCache[str] = ByteCache(10, len)
    cache.get("a", lambda: "xxxxx")
    assert cache.get("b", lambda: "y" * 11) == "y" * 11
    cache.get("a", lambda: pytest.fail("a is there"))
    assert cache.figures.bytes == 5


def test_a_failure_is_raised_and_not_kept() -> None:
    cache: ByteCache[str] = ByteCache(10, len)

    def fail() -> str:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.get("a", fail)
    assert cache.get("a", lambda: "yes") == "yes"


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes is -1: it must be at least 0"):
        ByteCache(-1, len)


@given(st.integers(0, 40), st.integers(0, 2**31))
def test_it_never_holds_more_than_it_may(room: int, seed: int) -> None:
    rng = random.Random(seed)
    cache: ByteCache[str] = ByteCache(room, len)
    for _ in range(60):
        key = rng.randrange(9)
        assert cache.get(key, lambda key=key: str(key) * (key + 1)) == str(key) * (key + 1)  # type: ignore[misc]
        assert 0 <= cache.figures.bytes <= room
    assert cache.figures.hits + cache.figures.misses == 60
