"""Read tensors by several threads, ahead of the one that takes them: a single thread keeps neither a disk nor a network
busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from zoetrope.model.runtime.threads import usable_cores

V = TypeVar("V")
MOST_READERS = 8
ROOM_BYTES = 512 << 20  # read ahead at a time, or one tensor if it is larger


@dataclass(frozen=True)
class Reading(Generic[V]):
    """One thing to read, by ``read``. ``anywhere``: any thread may do it; else it is read when its turn has come."""

    bytes: int
    read: Callable[[], V]
    anywhere: bool = True


def readers() -> int:
    """Return how many threads read by default: as many as there are cores, of at most ``MOST_READERS``."""
    return min(MOST_READERS, usable_cores())


def read_ahead(wanted: Iterable[Reading[V]], threads: int, room: int = ROOM_BYTES) -> Generator[V]:
    """Yield what is read, in order, while up to ``threads`` threads read what comes next.

    Args:
        threads: 0 to read each only when it is due, in the thread that takes it.
        room: bytes that may have been read, or be on their way, and not have been taken.

    Raises:
        Exception: what a ``read`` raises, when its turn has come; no other read is started after that.
    """
    if not threads:
        yield from (one.read() for one in wanted)
        return
    with ThreadPoolExecutor(threads, "read-weights") as pool:
        started: deque[tuple[Reading[V], Future[V] | None]] = deque()
        left, held = iter(wanted), 0
        following = next(left, None)
        try:
            while started or following is not None:
                while following is not None and (not started or held + following.bytes <= room):
                    started.append((following, pool.submit(following.read) if following.anywhere else None))
                    held += following.bytes
                    following = next(left, None)
                size = started[0][0].bytes
                yield _result(*started.popleft())  # without a name here, which would keep it
                held -= size
        finally:
            for _, future in started:
                if future is not None:
                    future.cancel()


def _result(reading: Reading[V], future: Future[V] | None) -> V:
    return reading.read() if future is None else future.result()
