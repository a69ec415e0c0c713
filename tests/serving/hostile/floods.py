"""What floods a gateway: ``python -m tests.serving.hostile.floods '{"name": ..., "grpc": ..., "http": ..., ...}'``.

Prints ``ready`` once it is under way, goes on until its stdin ends, and then prints what it sent as JSON. It runs at a
low priority: whoever floods a service has machines of his own, and here all share one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import resource
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import httpx
from google.longrunning import operations_pb2, operations_pb2_grpc

from tests.serving.gateway.harness import text_request
from tests.serving.hostile.http2 import Connection, connect, message
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, media_pb2_grpc, video_pb2, video_pb2_grpc

NICE = 19
ELSEWHERE = "127.0.0.2"  # whoever floods a service with connections does so from a machine of his own
MIB = 1 << 20
VIDEOS = "/zoetrope.video.v1.VideoService/"
OPERATIONS = "/google.longrunning.Operations/"
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 16 * MIB))


@dataclass(frozen=True)
class Plan:
    """``key``: of the one who floods; "" for none. ``job``: a finished one of his, with a large file."""

    name: str
    grpc: str
    http: str
    key: str = ""
    job: str = ""


class Flood:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sent: defaultdict[str, float] = defaultdict(float)
        self.under_way = asyncio.Event()
        self._kept: list[Any] = []

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.plan.key}")] if self.plan.key else []

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.metadata)

    async def repeat(self, at_once: int, call: Callable[[], Awaitable[Any]]) -> None:
        """The same for ever, so many at a time."""

        async def one() -> None:
            while True:
                self.sent[str(await call())] += 1
                self.under_way.set()

        await asyncio.gather(*(one() for _ in range(at_once)))

    # Messages that never end.

    async def unfinished(self, path: str, connections: int, streams: int) -> None:
        """Each stream has all of an 8 MiB message but its end; one that the gateway ends is opened anew."""
        piece = message(b"\x0a\x00" * (4 * MIB - 100), 8 * MIB - 10)

        async def stream(line: Connection) -> None:
            while not line.closed:
                number = line.open(path, self.plan.key)
                await line.send(number, piece)
                self.sent["streams"] += 1
                while number not in line.ended and not line.closed:
                    await asyncio.sleep(0.1)

        async def connection() -> None:
            while True:
                with contextlib.suppress(OSError):
                    line = await connect(self.plan.grpc)
                    self.sent["connections"] += 1
                    await asyncio.gather(*(stream(line) for _ in range(streams)))
                await asyncio.sleep(0.05)

        self._soon()
        await asyncio.gather(*(connection() for _ in range(connections)))

    # Connections.

    async def connections(self, count: int, address: str, first: bytes, more: bytes = b"") -> None:
        """So many, each with the first bytes and then with one more now and then; those that end are opened anew."""
        host, _, port = address.rpartition(":")

        async def one() -> None:
            while True:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(ELSEWHERE, 0))
                    self.sent["connections"] += 1
                    writer.write(first)
                    trickle = asyncio.create_task(self._trickle(writer, more)) if more else None
                    try:
                        while await reader.read(65_536):
                            pass
                    finally:
                        if trickle is not None:
                            trickle.cancel()
                        writer.close()
                await asyncio.sleep(0.5)

        self._soon()
        await asyncio.gather(*(one() for _ in range(count)))

    async def _trickle(self, writer: asyncio.StreamWriter, more: bytes) -> None:
        while not writer.is_closing():
            await asyncio.sleep(1)
            writer.write(more)

    # Calls that are refused.

    async def without_key(self) -> None:
        async with self._channel() as channel, self._web() as web:
            operations = operations_pb2_grpc.OperationsStub(channel)

            async def get() -> str:
                return await _code(operations.GetOperation(operations_pb2.GetOperationRequest(name="operations/x")))

            async def page() -> str:
                return str((await web.get("/v1/videos")).status_code)

            await asyncio.gather(self.repeat(30, get), self.repeat(10, page))

    # Requests that are large in other ways than they look.

    async def grpc_calls(self, path: str, data: bytes, at_once: int) -> None:
        async with self._channel() as channel:
            call = channel.unary_unary(path)
            await self.repeat(at_once, lambda: _code(call(data, metadata=self.metadata)))

    async def json_keys(self) -> None:
        body = b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}"
        assert len(body) < 12 * MIB

        async with self._web() as web:

            async def post() -> int:
                return (await web.post("/v1/videos", content=body, headers=self.headers)).status_code

            await self.repeat(8, post)

    async def fat_json(self) -> None:
        """Bodies as large as they may be, all of one text that is no picture."""
        body = json.dumps(
            {"prompt": "x", "input_reference": "data:image/png;base64," + "AAAA" * (5 * MIB // 2)}
        ).encode()
        async with self._web() as web:

            async def post() -> int:
                return (await web.post("/v1/videos", content=body, headers=self.headers)).status_code

            await self.repeat(8, post)

    # Requests that stall.

    async def stalled_uploads(self) -> None:
        """150 of an upload's pieces of 5 MiB and then none; and as many forms."""
        async with self._channel() as channel:
            media: Any = media_pb2_grpc.MediaServiceStub(channel)  # type: ignore[no-untyped-call]

            async def upload() -> str:
                announced = media_pb2.CreateMediaRequest(size_bytes=50 * MIB, sha256=hashlib.sha256().hexdigest())
                try:
                    made = await media.CreateMedia(announced, metadata=self.metadata)
                    call = media.WriteMedia(metadata=self.metadata)
                    for number in range(5):
                        piece = media_pb2.WriteMediaRequest(name=made.name, offset=number * MIB, data=bytes(MIB))
                        await call.write(piece)
                    return str((await call.code()).name)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                    return str(error.code().name) if isinstance(error, grpc.aio.AioRpcError) else "ENDED"

            form = b'--b\r\ncontent-disposition: form-data; name="content"; filename="a"\r\n\r\n' + bytes(5 * MIB)
            await asyncio.gather(
                self.repeat(150, upload),
                self.connections(150, self.plan.http, self._post("/v1/files", "multipart/form-data; boundary=b", form)),
            )

    def _post(self, path: str, kind: str, body: bytes, size: int = 60 * MIB) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n"
        head += f"authorization: Bearer {self.plan.key}\r\n" if self.plan.key else ""
        return head.encode() + b"\r\n" + body

    async def stalled_json(self, count: int = 150) -> None:
        body = b'{"prompt": "' + b"x" * (11 * MIB)
        await self.connections(count, self.plan.http, self._post("/v1/videos", "application/json", body, 12 * MIB))

    # Reads.

    async def lists(self, terms: Iterator[str]) -> None:
        async with self._channel() as channel:
            operations = operations_pb2_grpc.OperationsStub(channel)

            async def page() -> str:
                asked = operations_pb2.ListOperationsRequest(filter=next(terms), page_size=200)
                return await _code(operations.ListOperations(asked, metadata=self.metadata))

            await self.repeat(16, page)

    async def gets(self) -> None:
        async with self._channel() as channel:
            operations = operations_pb2_grpc.OperationsStub(channel)
            asked = operations_pb2.GetOperationRequest(name=self.plan.job)
            await self.repeat(200, lambda: _code(operations.GetOperation(asked, metadata=self.metadata)))

    async def watches(self) -> None:
        async with self._channel() as channel:
            videos: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
            made = await videos.CreateVideo(
                video_pb2.CreateVideoRequest(text_to_video=video_pb2.TextToVideo(prompt="x")), metadata=self.metadata
            )

            async def watch() -> str:
                call = videos.WatchVideo(video_pb2.WatchVideoRequest(name=made.name), metadata=self.metadata)
                try:
                    async for _ in call:
                        self.sent["events"] += 1
                        if self.sent["events"] >= 1_000:
                            self.under_way.set()
                except grpc.aio.AioRpcError as error:
                    return str(error.code().name)
                return "OK"

            await self.repeat(1_000, watch)

    async def inlined_results(self) -> None:
        """Predictions with their videos in them, read as fast as they come."""
        path = f"/v1/predictions/{self.plan.job.removeprefix('operations/')}"
        async with self._web() as web:

            async def get() -> int:
                async with web.stream("GET", path, headers=self.headers) as answer:
                    async for chunk in answer.aiter_raw():
                        self.sent["MiB"] += len(chunk) / MIB
                return answer.status_code

            self._soon()
            await self.repeat(20, get)

    async def slow_readers(self) -> None:
        """Large results that are asked for and not read."""
        path = f"/v1/videos/{self.plan.job.removeprefix('operations/')}/content"
        asked = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.plan.key}\r\n\r\n".encode()
        host, _, port = self.plan.http.rpartition(":")
        for _ in range(100):
            reader, writer = await asyncio.open_connection(host, int(port), limit=1_024)
            writer.write(asked)
            await reader.read(100)
            self._kept.append((reader, writer))
            self.sent["connections"] += 1
        self.under_way.set()
        async with self._channel() as channel:
            videos: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
            for _ in range(100):
                call = videos.DownloadVideo(video_pb2.DownloadVideoRequest(name=self.plan.job), metadata=self.metadata)
                await call.read()
                self._kept.append(call)
                self.sent["streams"] += 1
            await asyncio.Event().wait()

    def _channel(self) -> Any:
        return grpc.aio.insecure_channel(self.plan.grpc, options=OPTIONS)

    def _web(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://{self.plan.http}", timeout=300)

    def _soon(self) -> None:
        """It counts as under way a second after it began: some floods get no answers."""
        asyncio.get_running_loop().call_later(1.0, self.under_way.set)


async def _code(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def labels() -> bytes:
    many = {str(number): "" for number in range(500_000)}
    return bytes(text_request("x", labels=many).SerializeToString())


GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
FLOODS: dict[str, Callable[[Flood], Awaitable[None]]] = {
    # Without a key.
    "unfinished messages": lambda flood: flood.unfinished(VIDEOS + "CreateVideo", 10, 10),
    "unfinished probes": lambda flood: flood.unfinished("/grpc.health.v1.Health/Check", 10, 10),
    "idle HTTP connections": lambda flood: flood.connections(2_000, flood.plan.http, GET),
    "headers that trickle": lambda flood: flood.connections(500, flood.plan.http, b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "idle gRPC connections": lambda flood: flood.connections(
        2_000, flood.plan.grpc, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    ),
    "bodies without a key": lambda flood: flood.stalled_json(),
    "calls without a key": lambda flood: flood.without_key(),
    # With one.
    "unfinished videos": lambda flood: flood.unfinished(VIDEOS + "BatchCreateVideos", 10, 10),
    "unfinished gets": lambda flood: flood.unfinished(OPERATIONS + "GetOperation", 10, 10),
    "batches of nothing": lambda flood: flood.grpc_calls(VIDEOS + "BatchCreateVideos", b"\x0a\x00" * (4 * MIB - 8), 4),
    "labels": lambda flood: flood.grpc_calls(VIDEOS + "CreateVideo", labels(), 4),
    "JSON keys": lambda flood: flood.json_keys(),
    "large JSON": lambda flood: flood.fat_json(),
    "stalled uploads": lambda flood: flood.stalled_uploads(),
    "stalled JSON": lambda flood: flood.stalled_json(),
    "label filters": lambda flood: flood.lists(f"labels.number={number}" for number in itertools.count()),
    "lists without an index": lambda flood: flood.lists(itertools.repeat("task=edit_video AND state=succeeded")),
    "gets": lambda flood: flood.gets(),
    "watches": lambda flood: flood.watches(),
    "results in predictions": lambda flood: flood.inlined_results(),
    "results that nobody reads": lambda flood: flood.slow_readers(),
}
KEYLESS = tuple(itertools.takewhile(lambda name: name != "unfinished videos", FLOODS))


async def run(plan: Plan) -> None:
    flood = Flood(plan)
    task = asyncio.ensure_future(FLOODS[plan.name](flood))
    started = asyncio.ensure_future(flood.under_way.wait())
    await asyncio.wait([task, started], timeout=60, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(flood.sent), flush=True)
    os._exit(0)  # what thousands of calls would do on their way out is of no interest


def describe(plan: Plan) -> str:
    return json.dumps(asdict(plan))


if __name__ == "__main__":
    os.setpriority(os.PRIO_PROCESS, 0, NICE)  # whatever that of its parent is
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(run(Plan(**json.loads(sys.argv[1]))))
