"""Keep the results of a costly computation in bounded memory, the least recently used giving way. Needs no torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True)
class CacheFigures:
    """How often a cache was asked for what it had, and for what it had not; ``bytes``: that it holds now."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0

    def __add__(self, other: CacheFigures) -> CacheFigures:
        return CacheFigures(self.hits + other.hits, self.misses + other.misses, self.bytes + other.bytes)


class ByteCache(Generic[V]):
    """Values by key, at most ``max_bytes`` of them. Thread-safe: threads that ask for the same missing key each compute
    it, for neither should wait on the other's failure."""

    def __init__(self, max_bytes: int, size_of: Callable[[V], int]) -> None:
        """``size_of``: the bytes of a value. Raises ValueError if ``max_bytes`` is negative."""
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}: it must be at least 0")
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._figures = CacheFigures()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """Return the value of a key, from ``make`` if it is missing. A value larger than the cache is not kept; what
        ``make`` raises is raised."""
        with self._lock:
            found = self._values.get(key)
            self._figures += CacheFigures(hits=int(found is not None), misses=int(found is None))
            if found is not None:
                self._values.move_to_end(key)
                return found[0]
        value = make()
        size = self._size_of(value)
        with self._lock:
            if size <= self._max_bytes and key not in self._values:
                self._values[key] = value, size
                self._figures += CacheFigures(bytes=size)
                while self._figures.bytes > self._max_bytes:
                    _, (_, freed) = self._values.popitem(last=False)
                    self._figures += CacheFigures(bytes=-freed)
        return value

    @property
    def figures(self) -> CacheFigures:
        return self._figures
