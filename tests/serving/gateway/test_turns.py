"""Turns that callers wait for, and places that the newest take."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from serving.gateway.errors import ApiError
from serving.gateway.newest import Newest
from serving.gateway.turns import NoTurn, Turns


async def test_a_caller_has_its_own_whatever_others_hold() -> None:
    turns = Turns(own=1, most=3, common=2)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(turns.turn("greedy", 0))
        with pytest.raises(NoTurn):  # its most
            await stack.enter_async_context(turns.turn("greedy", 0.01))
        await stack.enter_async_context(turns.turn("modest", 0))
        with pytest.raises(NoTurn):  # nothing common is left
            await stack.enter_async_context(turns.turn("modest", 0.01))
    async with turns.turn("modest", 0), turns.turn("modest", 0), turns.turn("modest", 0):
        pass


async def test_turns_come_in_order_and_are_given_back() -> None:
    turns, order = Turns(own=1, most=1, common=0), list[int]()

    async def take(number: int) -> None:
        async with turns.turn("a", 5):
            order.append(number)
            await asyncio.sleep(0)

    waiting = [asyncio.create_task(take(number)) for number in range(50)]
    await asyncio.sleep(0)
    waiting[20].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [number for number in range(50) if number != 20]
    assert not turns._holders


async def test_what_is_common_goes_to_whoever_waits() -> None:
    turns = Turns(own=1, most=2, common=1)
    async with AsyncExitStack() as other, turns.turn("b", 0):
        first = AsyncExitStack()
        await first.enter_async_context(turns.turn("a", 0))
        await first.enter_async_context(turns.turn("a", 0))
        waits = asyncio.create_task(other.enter_async_context(turns.turn("b", 5)))
        await asyncio.sleep(0)
        assert not waits.done()
        await first.aclose()
        await waits


async def test_the_newest_take_the_place_of_the_oldest() -> None:
    places, left = Newest(each=2, most=3), asyncio.Event()
    ended: list[str] = []

    async def hold(address: str, name: str) -> None:
        try:
            with places.place(address):
                await left.wait()
        except ApiError as error:
            assert error.reason == "TOO_MANY_CALLS"
            ended.append(name)

    tasks = []
    for address, name in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1")):
        tasks.append(asyncio.create_task(hold(address, name)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert ended == ["a1", "a2"]  # the one for its own address, the other for being of the one with the most
    left.set()
    await asyncio.gather(*tasks)
    assert not places._tasks


async def test_a_call_that_is_cancelled_stays_cancelled() -> None:
    places = Newest(each=1, most=1)

    async def hold() -> None:
        with places.place("a"):
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
