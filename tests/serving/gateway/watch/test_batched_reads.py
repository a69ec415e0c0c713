"""Reads that callers share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from zoetrope.serving.gateway.watch.batched_reads import MAX_BATCH, BatchedReads


class Reads:
    """Doubles numbers; each read waits until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.began.release()
        assert self.may_end.acquire(timeout=10)
        if -1 in items:
            raise ValueError("-1 cannot be read")
        return [2 * item for item in items]


async def ask(together: BatchedReads[int, int], *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(together.get(item)) for item in items]
    await asyncio.sleep(0)  # each has asked now
    return tasks


async def under_way(item: int) -> tuple[Reads, BatchedReads[int, int], list[asyncio.Task[int]]]:
    """With a first read that has begun."""
    reads = Reads()
    together = BatchedReads(reads)
    first = await ask(together, item)
    await asyncio.to_thread(reads.began.acquire)
    return reads, together, first


async def test_those_who_ask_during_a_read_share_the_next_one() -> None:
    reads, together, first = await under_way(1)
    later = await ask(together, 2, 3, 1)
    reads.may_end.release(2)
    assert await asyncio.gather(*first, *later) == [2, 4, 6, 2]
    assert reads.batches == [[1], [2, 3, 1]]  # the second 1 was asked for after the first was read: it is read anew


async def test_an_error_is_that_of_its_own_read() -> None:
    reads, together, first = await under_way(-1)
    later = await ask(together, 4)
    reads.may_end.release(2)
    with pytest.raises(ValueError, match="-1 cannot be read"):
        await first[0]
    assert await later[0] == 8
    reads.may_end.release()
    assert await together.get(5) == 10  # and it goes on


async def test_a_caller_that_goes_away_takes_nothing_from_others() -> None:
    reads = Reads()
    together = BatchedReads(reads)
    gone, stays = await ask(together, 6, 7)
    gone.cancel()
    reads.may_end.release(2)
    assert await stays == 14
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_read_has_a_limit() -> None:
    reads, together, tasks = await under_way(0)
    tasks += await ask(together, *range(1, MAX_BATCH + 2))
    reads.may_end.release(3)
    assert await asyncio.gather(*tasks) == [2 * number for number in range(MAX_BATCH + 2)]
    assert [len(batch) for batch in reads.batches] == [1, MAX_BATCH, 1]
