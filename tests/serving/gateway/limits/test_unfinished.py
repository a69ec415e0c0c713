"""Turns that callers wait for, and places that the newest take."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.limits.anonymous import AnonymousConnections
from zoetrope.serving.gateway.limits.unfinished import CallerLimits, LimitReached


async def test_a_caller_has_its_own_whatever_others_hold() -> None:
    turns = CallerLimits(own=1, most=3, common=2)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(turns.turn("greedy", 0))
        with pytest.raises(LimitReached):  # its most
            await stack.enter_async_context(turns.turn("greedy", 0.01))
        await stack.enter_async_context(turns.turn("modest", 0))
        with pytest.raises(LimitReached):  # nothing common is left
            await stack.enter_async_context(turns.turn("modest", 0.01))
    async with turns.turn("modest", 0), turns.turn("modest", 0), turns.turn("modest", 0):
        pass


async def test_turns_come_in_order_and_are_given_back() -> None:
    turns, order = CallerLimits(own=1, most=1, common=0), list[int]()

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
    turns = CallerLimits(own=1, most=2, common=1)
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
    places, left = AnonymousConnections(each=2, most=3), asyncio.Event()
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
    places = AnonymousConnections(each=1, most=1)

    async def hold() -> None:
        with places.place("a"):
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_turn_stays_taken_while_its_holder_rests() -> None:
    turns = CallerLimits(own=1, most=1, common=1)
    async with turns.turn("a", 1) as turn:
        turn.rest = 0.2
    started = asyncio.get_running_loop().time()
    async with turns.turn("b", 1):
        assert asyncio.get_running_loop().time() - started < 0.1, "others do not wait for it"
    async with turns.turn("a", 1):
        assert asyncio.get_running_loop().time() - started >= 0.15
