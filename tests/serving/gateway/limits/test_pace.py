"""Who keeps the event loop from others is slowed down, and nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.serving.gateway.http.transport.listener import BURST, PacedListener
from zoetrope.serving.gateway.limits.pace import FIRST_DELAY, GROWTH, LATE_SECONDS, MAX_DELAY, Pace

LATE = 2 * LATE_SECONDS


async def call(pace: Pace, name: str, times: int) -> None:
    await asyncio.gather(*(pace.wait(name) for _ in range(times)))


async def delay_of(pace: Pace, name: str) -> float:
    started = time.monotonic()
    await pace.wait(name)
    return time.monotonic() - started


async def test_the_one_with_the_most_calls_waits_longer_and_longer() -> None:
    pace = Pace()
    for _ in range(3):
        await call(pace, "few", 2)
        await call(pace, "many", 40)
        pace.adjust(LATE)
    assert await delay_of(pace, "few") < FIRST_DELAY / 2
    assert await delay_of(pace, "many") >= GROWTH**2 * FIRST_DELAY


async def test_a_loop_that_has_no_time_to_spare_counts_as_late() -> None:
    pace = Pace()
    await call(pace, "few", 2)
    await call(pace, "many", 40)
    pace.adjust(0.0, busy=0.6)
    assert await delay_of(pace, "many") < FIRST_DELAY / 2
    pace.adjust(0.0, busy=0.9)
    assert await delay_of(pace, "many") >= FIRST_DELAY


async def test_it_is_forgiven_when_the_loop_is_on_time() -> None:
    pace = Pace()
    await call(pace, "few", 2)
    await call(pace, "many", 100)
    pace.adjust(LATE)
    for _ in range(60):
        pace.adjust(0.0)
    assert await delay_of(pace, "many") < FIRST_DELAY / 2


async def test_one_that_is_alone_waits_for_nobody() -> None:
    pace = Pace()
    for _ in range(3):
        await call(pace, "only", 100)
        pace.adjust(LATE)
        assert pace.rest(8 << 20) == 0.0
    assert await delay_of(pace, "only") < FIRST_DELAY / 2


async def test_few_calls_are_not_what_makes_the_loop_late() -> None:
    pace = Pace()
    for name in ("one", "two"):
        await call(pace, name, 3)
    pace.adjust(LATE)
    assert max([await delay_of(pace, name) for name in ("one", "two")]) < FIRST_DELAY / 2


async def test_large_requests_rest_beside_others() -> None:
    pace = Pace()
    await call(pace, "one", 1)
    await call(pace, "two", 1)
    assert pace.rest(10 << 20) == pytest.approx(2.0)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.0, LATE, 1.0])), max_size=60))
def test_no_delay_is_beyond_the_limit(windows: list[tuple[int, int, float]]) -> None:
    pace = Pace()

    async def live() -> None:
        for one, two, late in windows:
            pace._calls.update({name: calls for name, calls in (("one", one), ("two", two)) if calls})
            pace._seen |= {"one": time.monotonic(), "two": time.monotonic()}
            pace.adjust(late)

    asyncio.run(live())
    assert all(0 < delay <= MAX_DELAY for delay in pace._delays.values())


async def test_nobody_is_slowed_down_for_probes_and_refused_calls() -> None:
    pace = Pace()
    for _ in range(3):
        await call(pace, "only", 100)
        await pace.wait("open 10.0.0.1", known=False)
        pace.adjust(LATE)
        assert pace.rest(8 << 20) == 0.0
    assert await delay_of(pace, "only") < FIRST_DELAY / 2


async def test_probes_and_refused_calls_are_slowed_down_for_one_with_a_key() -> None:
    pace = Pace()
    await call(pace, "only", 1)
    for _ in range(100):
        await pace.wait("refused 10.0.0.1", known=False)
    pace.adjust(LATE)
    assert pace._delays.keys() == {"refused 10.0.0.1"}


@pytest.mark.parametrize(("work", "saturated"), [(None, True), (time.sleep, False)])
async def test_the_loop_is_watched(work: Callable[[float], None] | None, saturated: bool) -> None:
    pace = Pace()
    watch = asyncio.create_task(pace.run())
    try:
        await asyncio.sleep(0.2)
        assert not pace.saturated
        end = time.monotonic() + (60 if saturated else 0.5)
        while time.monotonic() < end and not pace.saturated:
            (work or compute)(0.05)
            await asyncio.sleep(0)
        assert pace.saturated == saturated
    finally:
        watch.cancel()


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.integration
def test_what_others_take_of_the_processor_is_no_load() -> None:
    """A loop that computes for a tenth of the time, beside processes that keep all processors busy."""
    program = "import sys; sys.stdin.close()\nwhile True: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) for _ in range(2 * cpus())]

    async def live() -> bool:
        pace = Pace()
        watch = asyncio.create_task(pace.run())
        for _ in range(50):
            compute(0.004)
            await asyncio.sleep(0.036)
        watch.cancel()
        return pace.saturated

    try:
        assert not asyncio.run(live())
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def cpus() -> int:
    return len(os.sched_getaffinity(0))


def connect(listener: socket.socket, source: str) -> socket.socket:
    return socket.create_connection(listener.getsockname(), source_address=(source, 0), timeout=5)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("saturated", [False, True])
def test_connections_of_a_strange_address_are_few_while_the_loop_is_busy(saturated: bool, known: bool) -> None:
    pace = Pace()
    if saturated:
        pace.adjust(0.0, busy=0.9)
    else:
        pace.adjust(LATE)
    if known:
        pace.welcome("127.0.0.2")
    with PacedListener.of(socket.create_server(("127.0.0.1", 0), backlog=256), pace) as listener:
        listener.setblocking(False)
        clients = [connect(listener, "127.0.0.2") for _ in range(100)] + [connect(listener, "127.0.0.3")]
        sources = []
        for _ in range(150):
            try:
                connection, (source, _) = listener.accept()
            except BlockingIOError:
                continue
            sources.append(source)
            connection.close()
        for client in clients:
            client.close()
    assert "127.0.0.3" in sources, "others come in"
    if saturated and not known:
        assert BURST <= sources.count("127.0.0.2") < 100
    else:
        assert len(sources) == 101
