"""Requests that are never complete, and those that hold more than they look: raw HTTP/2 and raw HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import psutil
import pytest
from google.longrunning import operations_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.serving.gateway.harness import Service, failure, reason, running_service, text_request, violations
from tests.serving.hostile.http2 import Connection, connect, message
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2

MIB = 1 << 20
CREATE = "/zoetrope.video.v1.VideoService/CreateVideo"
GET = "/google.longrunning.Operations/GetOperation"
CHECK = "/grpc.health.v1.Health/Check"
UNFINISHED = message(b"\x0a\x00" * (MIB - 100), 8 * MIB - 10)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("gateway"), keys="required") as running:
        yield running


@pytest.fixture(scope="module")
def keys(service: Service) -> list[str]:
    return [service.stores.keys.create(name, name)[1] for name in ("hostile", "innocent")]


def memory(service: Service) -> float:
    return float(psutil.Process(service.gateway.process.pid).memory_info().rss) / MIB


def labelled(count: int) -> bytes:
    return bytes(text_request(labels={str(number): "" for number in range(count)}).SerializeToString())


async def unfinished(line: Connection, path: str, key: str, count: int) -> list[int]:
    """So many calls whose message lacks its end; each is sent as far as the gateway lets it be."""
    streams = [line.open(path, key) for _ in range(count)]
    for stream in streams:
        task = asyncio.create_task(line.send(stream, UNFINISHED))
        line.tasks.append(task)
    return streams


def test_without_a_key_nothing_is_read(service: Service) -> None:
    async def flood() -> None:
        line = await connect(service.target)
        streams = await unfinished(line, CREATE, "", 40)
        async with asyncio.timeout(10):
            await line.until_ended(streams)
        line.close()

    before = memory(service)
    asyncio.run(flood())
    assert memory(service) - before < 50


def test_with_one_little_is_read_and_not_for_long(service: Service, keys: list[str]) -> None:
    hostile, innocent = keys

    async def flood() -> None:
        line = await connect(service.target)
        streams = await unfinished(line, GET, hostile, 20)
        started = time.monotonic()
        get = operations_pb2.GetOperationRequest(name="operations/vid_x")
        code, _ = await asyncio.to_thread(
            failure, lambda: service.operations.GetOperation(get, metadata=[("authorization", f"Bearer {innocent}")])
        )
        assert code == "NOT_FOUND" and time.monotonic() - started < 2
        async with asyncio.timeout(20):
            await line.until_ended(streams[:10])  # 5 s each
        line.close()

    asyncio.run(flood())


def test_probes_are_answered_beside_unfinished_ones(service: Service) -> None:
    async def flood() -> None:
        line = await connect(service.target)
        streams = await unfinished(line, CHECK, "", 50)
        async with asyncio.timeout(10):
            await line.until_ended(streams[:40])  # of one address, the oldest make room
        check = health_pb2_grpc.HealthStub(service.channel).Check
        answer: Any = await asyncio.to_thread(check, health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        line.close()

    asyncio.run(flood())


def test_watches_that_nobody_reads_stop_no_others(service: Service) -> None:
    """A watcher of health that takes nothing once held the lock under which all others are told."""

    async def flood() -> None:
        line = await connect(service.target, window=0)
        asked = health_pb2.HealthCheckRequest(service="zoetrope.video.v1.VideoService").SerializeToString()
        for _ in range(3):
            await line.send(line.open("/grpc.health.v1.Health/Watch"), message(asked), end=True)
        watch = health_pb2_grpc.HealthStub(service.channel).Watch
        status = await asyncio.to_thread(
            lambda: next(
                iter(watch(health_pb2.HealthCheckRequest(service="zoetrope.video.v1.VideoService"), timeout=5))
            )
        )
        assert status.status == health_pb2.HealthCheckResponse.NOT_SERVING
        line.close()

    asyncio.run(flood())


@pytest.mark.parametrize(
    ("path", "data", "why"),
    [
        ("BatchCreateVideos", b"\x0a\x00" * (4 * MIB - 8), "TOO_MANY_FIELDS"),
        ("BatchCreateVideos", b"\x0a\x00" * 800, "INVALID_REQUEST"),
        (
            "CreateVideo",
            labelled(500_000),
            "TOO_MANY_FIELDS",
        ),
        ("CreateVideo", labelled(300), "INVALID_REQUEST"),
        ("WatchVideo", video_pb2.WatchVideoRequest(name="x" * MIB).SerializeToString(), "MESSAGE_TOO_LARGE"),
    ],
    ids=["entries", "fewer entries", "labels", "fewer labels", "a long name"],
)
def test_what_is_too_much_is_refused_soon(service: Service, keys: list[str], path: str, data: bytes, why: str) -> None:
    metadata, name = [("authorization", f"Bearer {keys[0]}")], f"/zoetrope.video.v1.VideoService/{path}"
    started, before = time.monotonic(), memory(service)
    if path == "WatchVideo":
        code, status = failure(lambda: list(service.channel.unary_stream(name)(data, metadata=metadata)))
    else:
        code, status = failure(lambda: service.channel.unary_unary(name)(data, metadata=metadata))
    assert (code, reason(status)) == ("INVALID_ARGUMENT", why)
    assert len(violations(status)) <= 1 and len(status.message) < 300
    assert time.monotonic() - started < 5
    assert memory(service) - before < 100


def test_errors_are_few(service: Service, keys: list[str]) -> None:
    request = video_pb2.BatchCreateVideosRequest(requests=[text_request(fps=-1)] * 50)
    call = service.videos.BatchCreateVideos
    _, status = failure(lambda: call(request, metadata=[("authorization", f"Bearer {keys[0]}")]))
    assert len(violations(status)) == 10
    assert status.message.endswith("; and 40 more")


BODIES = {
    "keys": b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}",
    "lists": b'{"prompt": [' + b"[]," * 3_000_000 + b"0]}",
    "escapes": b'{"prompt": "' + b"\\n" * 5_000_000 + b'"}',
    "unknown fields": json.dumps({f"field{number}": 0 for number in range(3_000)}).encode(),
    "a long text": json.dumps({"prompt": "x" * 11_000_000}).encode(),
    "a long list of texts": json.dumps({"size": ["x" * 5_000_000] * 2}).encode(),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/v1/videos", "/v1/predictions", "/dashboard/jobs"])
def test_bodies_of_many_parts(service: Service, keys: list[str], name: str, path: str) -> None:
    headers = {"authorization": f"Bearer {keys[0]}"}
    started, before = time.monotonic(), memory(service)
    answer = httpx.post(service.http + path, content=BODIES[name], headers=headers, timeout=60)
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 3_000
    assert time.monotonic() - started < 5
    assert memory(service) - before < 150


def test_fields_of_forms_are_bounded_together(service: Service, keys: list[str]) -> None:
    fields = {f"field{number}": "x" * (5 * MIB) for number in range(8)}
    headers = {"authorization": f"Bearer {keys[0]}"}
    before = memory(service)
    answer = httpx.post(f"{service.http}/v1/files", data=fields, files={"content": b"x"}, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert memory(service) - before < 100


@pytest.mark.parametrize(
    "header",
    [
        *("content-length: 11000000", "content-length: 00000000000011000000"),
        *("content-length: 11000000\r\ncontent-type: multipart/x", "transfer-encoding: chunked"),
        "content-length: 11000000\r\ncontent-type: multipart/form-data; boundary=b",
    ],
    ids=["plain", "with zeros", "no form", "chunked", "a form where none is taken"],
)
def test_large_bodies_come_in_turn_however_they_are_announced(service: Service, keys: list[str], header: str) -> None:
    """Of JSON a caller may have two at a time."""
    address, _, port = service.http.removeprefix("http://").partition(":")
    head = f"POST /v1/predictions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {keys[0]}\r\n{header}\r\n\r\n".encode()
    size = b"a00000\r\n" if "chunked" in header else b""

    async def stall() -> float:
        lines = [await asyncio.open_connection(address, int(port)) for _ in range(30)]
        for _, writer in lines:
            writer.write(head + size + b'{"version": "' + b"x" * 10_000_000)
        most = 0.0
        for _ in range(20):
            await asyncio.sleep(0.1)
            most = max(most, memory(service))
        for _, writer in lines:
            writer.transport.abort()
        return most

    before = memory(service)
    assert asyncio.run(stall()) - before < 80


def test_quoted_forms_hold_nobody_up(service: Service, keys: list[str]) -> None:
    hostile, innocent = ({"authorization": f"Bearer {key}"} for key in keys)
    body = b"prompt=" + b"%41" * 3_900_000
    form = {**hostile, "content-type": "application/x-www-form-urlencoded"}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{service.http}/v1/videos", content=body, headers=form, timeout=60)
        while not answer.done():
            started = time.monotonic()
            assert httpx.get(f"{service.http}/v1/account", headers=innocent, timeout=60).status_code == 200
            assert time.monotonic() - started < 2
    assert 400 <= answer.result().status_code < 500
    prompt = {"prompt": "a red circle", "negative_prompt": "b&c=d"}
    assert httpx.post(f"{service.http}/v1/videos", data=prompt, headers=hostile).status_code == 200


def test_long_answers_that_nobody_reads_are_few(service: Service, keys: list[str]) -> None:
    """A list of a hundred long prompts has megabytes."""
    headers = {"authorization": f"Bearer {keys[1]}"}
    with httpx.Client(base_url=service.http, headers=headers, timeout=60) as web:
        for _ in range(100):
            made = web.post("/v1/videos", json={"prompt": "\U0001f408" * 4_900})
            assert made.status_code == 200, made.text
        assert len(web.get("/v1/predictions").content) > 5 << 20
    address, _, port = service.http.removeprefix("http://").partition(":")
    asked = f"GET /v1/predictions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {keys[1]}\r\n\r\n".encode()
    before, lines = memory(service), []
    try:
        for _ in range(80):
            line = socket.socket()
            lines.append(line)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            line.connect((address, int(port)))
            line.sendall(asked)
        time.sleep(5)
        assert memory(service) - before < 180  # sixteen of them
        started = time.monotonic()
        innocent = {"authorization": f"Bearer {keys[0]}"}
        assert httpx.get(f"{service.http}/v1/account", headers=innocent, timeout=60).status_code == 200
        assert time.monotonic() - started < 2
    finally:
        for line in lines:
            line.close()


def test_a_key_that_is_none_ends_its_connection(service: Service) -> None:
    with httpx.Client(base_url=service.http) as web:
        answers = [web.get("/v1/videos") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {401}
    assert [answer.headers.get("connection") for answer in answers] == [None] * 19 + ["close"]


def test_connections_of_grpc_end_too(service: Service) -> None:
    """Of one address, those over which nobody has come in: the oldest go when there are too many."""

    async def flood() -> int:
        lines = [await connect(service.target) for _ in range(300)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(line.wait_closed() for line in lines[:30]))
            while (still := sum(not line.closed for line in lines)) > 260:
                await asyncio.sleep(0.05)
        for line in lines:
            line.close()
        return still

    assert 200 < asyncio.run(flood()) <= 260
    with grpc.insecure_channel(service.target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
