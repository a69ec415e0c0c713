"""Lists in turns: one of a tenant's at a time, two in all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from zoetrope.serving.gateway.limits.slow_reads import AT_ONCE, MAX_WAITING, SlowReads, TooManyReads


class Lists:
    """Each begins, waits until it may end and returns its name."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self._changed = threading.Condition()
        self._ended: set[str] = set()

    def read(self, name: str) -> Callable[[], str]:
        def go() -> str:
            with self._changed:
                self.began.append(name)
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: name in self._ended, 20)
            return name

        return go

    def end(self, *names: str) -> None:
        with self._changed:
            self._ended |= {*names}
            self._changed.notify_all()

    async def begun(self, *names: str) -> None:
        """Wait until so many have begun, which then are these, in this order."""

        def wait() -> None:
            with self._changed:
                assert self._changed.wait_for(lambda: len(self.began) >= len(names), 20)

        await asyncio.to_thread(wait)
        assert self.began == list(names)


async def ask(reads: SlowReads, lists: Lists, *names: str) -> list[asyncio.Task[str]]:
    """Each of the tenant of its first letter."""
    tasks = [asyncio.create_task(reads.run(name[0], lists.read(name))) for name in names]
    await asyncio.sleep(0)  # each has asked now
    return tasks


async def test_one_tenants_lists_wait_for_each_other_and_nobody_else_does() -> None:
    reads, lists = SlowReads(), Lists()
    tasks = await ask(reads, lists, "a1", "a2", "a3")
    await lists.begun("a1")
    tasks += await ask(reads, lists, "b1", "b2", "c1")
    await lists.begun("a1", "b1")
    lists.end("a1")
    await lists.begun("a1", "b1", "c1")  # which had none yet
    lists.end("b1", "c1", "a2", "b2", "a3")
    assert await asyncio.gather(*tasks) == ["a1", "a2", "a3", "b1", "b2", "c1"]
    assert AT_ONCE == 2


async def test_a_tenant_with_too_many_is_told_the_limit() -> None:
    reads, lists = SlowReads(), Lists()
    names = [f"a{number}" for number in range(MAX_WAITING)]
    tasks = await ask(reads, lists, *names)
    with pytest.raises(TooManyReads, match=f"lists: {MAX_WAITING} of this tenant are under way, which is the limit"):
        await reads.run("a", lists.read("one more"))
    lists.end(*names, "b1", "again")
    assert await reads.run("b", lists.read("b1")) == "b1"
    assert await asyncio.gather(*tasks) == names
    assert await reads.run("a", lists.read("again")) == "again"


async def test_callers_that_go_leave_no_trace() -> None:
    reads, lists = SlowReads(), Lists()
    first, second, third = await ask(reads, lists, "a1", "a2", "a3")
    await lists.begun("a1")
    second.cancel()
    first.cancel()
    await asyncio.wait([first, second])
    assert lists.began == ["a1"], "its thread goes on, and the next list waits for that"
    lists.end("a1", "a3")
    assert await third == "a3"
    assert lists.began == ["a1", "a3"]


async def test_errors_are_the_callers_and_free_the_place() -> None:
    def fail() -> str:
        raise ValueError("it cannot be read")

    reads = SlowReads()
    for _ in range(AT_ONCE + 1):
        with pytest.raises(ValueError, match="cannot be read"):
            await reads.run("a", fail)
