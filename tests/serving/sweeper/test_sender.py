"""The sender on a real store, with receivers that answer and some that never do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.serving.jobs.harness import claim_oldest, new_job
from tests.serving.outbound.receiver import Answer, receiving
from zoetrope.serving.jobs.job import JobWebhook, QueueLimits
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.outbound import Guard
from zoetrope.serving.sweeper import sender as sending
from zoetrope.serving.sweeper.sender import HOST_AT_ONCE, LANE_AT_ONCE, RESTS, TENANT_AT_ONCE, Sender


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db")
    yield stores
    stores.close()


def send(stores: Stores, owner: str, urls: list[str]) -> None:
    """Have a message for each."""
    hooks = [JobWebhook(url, ("start",)) for url in urls]
    spec = {"task": {"kind": "text_to_video"}}
    jobs = [new_job(f"{owner}{number}", owner=owner, webhook=hook, spec=spec) for number, hook in enumerate(hooks)]
    stores.jobs.create_batch(jobs, QueueLimits(100_000))
    assert len(claim_oldest(stores.jobs, "r", 1_000, 1_000.0, 5, ["nano"])) == len(urls)


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[int, Callable[[], list[str]]]]:
    """A server at all addresses of loopback that never answers: its port, and the hosts of connections that wait."""
    waiting: list[str] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        waiting.append(host)
        with suppress(ConnectionError):
            await reader.read()  # until the other side gives up
        waiting.remove(host)
        writer.close()

    server = await asyncio.start_server(hold, "0.0.0.0", 0)
    try:
        yield server.sockets[0].getsockname()[1], lambda: list(waiting)
    finally:
        server.close()


async def until(condition: Callable[[], bool], sender: Sender, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        await sender.send_due()
        await asyncio.sleep(0.01)


async def test_an_address_that_never_answers_holds_up_its_own_messages_alone(stores: Stores) -> None:
    arrived: list[str] = []

    def answer(headers: dict[str, str], body: bytes) -> Answer:
        arrived.append(headers["host"])
        return Answer()

    with receiving(answer) as url:
        async with silent() as (port, waiting):
            sender = Sender(stores, Guard(allow=("127.0.0.0/8",)), "http://zoetrope")
            send(stores, "a", [f"http://127.0.0.2:{port}/"] * 320)
            await until(lambda: len(waiting()) == LANE_AT_ONCE, sender)
            send(stores, "b", [url] * 9)
            await until(lambda: len(arrived) == 9, sender)
            send(stores, "c", [f"http://127.0.0.{2 + number % 5}:{port}/" for number in range(50)])
            await until(lambda: len(waiting()) == LANE_AT_ONCE + TENANT_AT_ONCE, sender)
            send(stores, "d", [url])
            await until(lambda: len(arrived) == 10, sender)
            assert len(waiting()) == LANE_AT_ONCE + TENANT_AT_ONCE < sending.AT_ONCE
            for task in sender._under_way:
                task.cancel()
            await sender.drain()


async def test_one_host_is_not_flooded_by_many(stores: Stores) -> None:
    async with silent() as (port, waiting):
        sender = Sender(stores, Guard(allow=("127.0.0.0/8",)), "http://zoetrope")
        for owner in "abcdefg":
            send(stores, owner, [f"http://127.0.0.1:{port}/"] * 5)
        await until(lambda: len(waiting()) == HOST_AT_ONCE, sender)
        assert await sender.send_due() == 0
        for task in sender._under_way:
            task.cancel()
        await sender.drain()


async def test_a_host_that_does_not_answer_rests_longer_each_time(stores: Stores) -> None:
    """Nobody listens, so that each delivery fails at once."""
    now = 0.0
    send(stores, "a", ["http://127.0.0.1:9999/"] * 40)
    sender = Sender(stores, Guard(allow=("127.0.0.0/8",)), "http://zoetrope", lambda: now)
    sent = []
    for rest in (*RESTS, RESTS[-1]):
        sent.append(await sender.send_due())
        await sender.drain()
        now += rest - 0.001
        assert await sender.send_due() == 0
        now += 0.002
    assert sent == [LANE_AT_ONCE, 1, 1, 1, 1]
    arrived: list[bytes] = []

    def answer(headers: dict[str, str], body: bytes) -> Answer:
        arrived.append(body)
        return Answer(500)

    with receiving(answer) as url:
        stores.database.write(lambda tx: tx.run("UPDATE outbox SET url = ?", (url,)))
        assert await sender.send_due() == 1
        await sender.drain()
        assert await sender.send_due() == LANE_AT_ONCE, "an answer, be it an error, ends the rest"
        await sender.drain()
    assert len(arrived) == 1 + LANE_AT_ONCE
