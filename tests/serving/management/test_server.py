"""The management port, as a kubelet and Prometheus use it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from zoetrope.serving.config.addresses import AddressError
from zoetrope.serving.config.startup_checks import StartError
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.management import server
from zoetrope.serving.management.server import Check, ManagementServer, fine, start_management


@asynccontextmanager
async def served(
    ready: Check = fine, alive: Check = fine, registry: CollectorRegistry | None = None
) -> AsyncIterator[tuple[ManagementServer, httpx.AsyncClient]]:
    management = await start_management(
        "127.0.0.1:0", ready=ready, alive=alive, registry=registry or CollectorRegistry()
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{management.address}") as client:
            yield management, client
    finally:
        await management.close()


async def test_probes_say_what_the_checks_find() -> None:
    problem = "the job database does not answer"

    async def ready() -> str:
        return problem

    async with served(ready) as (_, client):
        alive, answer = await client.get("/livez"), await client.get("/readyz?verbose")
        assert (alive.status_code, alive.text) == (200, "ok\n")
        assert (answer.status_code, answer.text) == (503, problem + "\n")
        problem = ""
        assert (await client.get("/readyz")).status_code == 200
        head = await client.head("/readyz")
        assert (head.status_code, head.text, head.headers["content-length"]) == (200, "", "3")


async def test_a_check_that_raises_or_hangs_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CHECK_SECONDS", 0.05)

    async def raises() -> str:
        raise RuntimeError("a prompt that nobody should read")

    async def hangs() -> str:
        await asyncio.Event().wait()
        return ""

    async with served(raises, hangs) as (_, client):
        ready, alive = await client.get("/readyz"), await client.get("/livez")
    assert (ready.status_code, ready.text) == (503, "the check failed: RuntimeError\n")
    assert (alive.status_code, alive.text) == (503, "no answer within 0.05 s\n")


async def test_metrics_in_both_formats() -> None:
    registry = CollectorRegistry()
    Counter("made", "What was made.", registry=registry).inc(3)
    async with served(registry=registry) as (_, client):
        plain = await client.get("/metrics")
        samples = (sample for family in text_string_to_metric_families(plain.text) for sample in family.samples)
        assert {sample.name: sample.value for sample in samples}["made_total"] == 3
        newer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert newer.headers["content-type"].startswith("application/openmetrics-text") and newer.text.endswith("# EOF\n")


async def test_metrics_that_cannot_be_read_leave_the_probes_alone() -> None:
    class Reader:
        def collect(self) -> Iterator[Metric]:
            yield GaugeMetricFamily("jobs", "Jobs.")
            raise StoreError("the database is away")

    registry = CollectorRegistry()
    registry.register(Reader())
    async with served(registry=registry) as (_, client):
        scrape = await client.get("/metrics")
        assert (scrape.status_code, scrape.text) == (503, "no metrics: StoreError\n")
        assert (await client.get("/livez")).status_code == 200


async def test_nothing_else_is_served() -> None:
    async with served() as (_, client):
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/livez")).status_code == 405


@pytest.mark.parametrize("sent", [b"GET /livez", b"GET /" + b"a" * 20_000, b""], ids=["slow", "long", "silent"])
async def test_requests_that_are_none_are_dropped(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_SECONDS", 0.05)
    async with served() as (management, client):
        host, _, port = management.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        with suppress(ConnectionError):  # dropped while the rest was on its way
            assert await reader.read() == b""
        writer.close()
        assert (await client.get("/livez")).status_code == 200


async def test_those_who_say_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of them goes for each that comes."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(server, "SPARE_CONNECTIONS", 1)
    async with served() as (management, client):
        host, _, port = management.address.rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        assert (await client.get("/livez")).status_code == 200
        with suppress(ConnectionError):
            assert await idle[0][0].read() == b""
        idle[1][1].write(b"GET /livez HTTP/1.1\r\n\r\n")
        assert (await idle[1][0].read()).startswith(b"HTTP/1.1 200 OK")
        for _, writer in idle:
            writer.close()


async def test_more_requests_than_anybody_needs_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(server, "SPARE_CONNECTIONS", 1)
    asked, over = asyncio.Semaphore(0), asyncio.Event()

    async def ready() -> str:
        asked.release()
        await over.wait()
        return ""

    async with served(ready) as (_, client):
        waiting = []
        for _ in range(2):  # one after the other: the second would end a first that has said nothing yet
            waiting.append(asyncio.create_task(client.get("/readyz")))
            await asked.acquire()
        with pytest.raises(httpx.TransportError):
            await client.get("/livez")
        over.set()
        assert [(await each).status_code for each in waiting] == [200, 200]
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=abc", "text/plain; version=1.x", ";;", "\xff"]
)
async def test_a_format_that_is_none_is_the_plain_one(accept: str) -> None:
    async with served() as (_, client):
        answer = await client.get("/metrics", headers={b"Accept": accept.encode("latin-1")})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")


async def test_addresses_that_cannot_be_had() -> None:
    with pytest.raises(AddressError, match="management: '9090' must be HOST:PORT"):
        await start_management("9090", ready=fine, registry=CollectorRegistry())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=f"management: cannot listen at {address}: Address already in use"):
            await start_management(address, ready=fine, registry=CollectorRegistry())
