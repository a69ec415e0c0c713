"""A client process: generated stubs on one connection, many concurrent calls.

    python -m zoetrope.benchmarks.gateway.client '{"target": ..., ...}'

The argument is a `LoadPlan` or a `WatchPlan` as JSON. Prints ``ready``, starts at the first line on stdin, and prints
its result as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from zoetrope.serving.api.zoetrope.video.v1 import video_pb2, video_pb2_grpc

WARM_CALLS = 50
RECENT = 1_000  # operations that gets choose from
PROMPT = "a red circle moves slowly from the left to the right over a dark blue field, number {number}"
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True)
class LoadPlan:
    """A load of creates and gets.

    Attributes:
        creators: concurrent callers, each creating again as soon as it is answered (closed loop); 0 with a ``rate``.
        rate: created jobs per second at random times (open loop, exponential gaps); latency counts from the time at
            which a call was due.
        gets: like ``rate``, for GetOperation of a random recent job.
        batch: jobs per create call.
    """

    target: str
    name: str
    seconds: float
    creators: int
    rate: float
    gets: float
    seed: int
    batch: int = 1


@dataclass
class LoadResult:
    """Latency of each answered call in seconds, and failures by status. ``made``: created jobs."""

    creates: list[float] = field(default_factory=list)
    gets: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0  # from the start to the last answer
    made: int = 0


@dataclass(frozen=True)
class WatchPlan:
    """Watch these operations until they end."""

    target: str
    names: tuple[str, ...]


@dataclass
class WatchResult:
    """What the streams received.

    Attributes:
        opened: seconds from the first call until every stream had its first event.
        began, ended: Unix times of the first event after the start and of the last one.
        lags: seconds from each job's end to its last event.
    """

    opened: float = 0.0
    events: int = 0
    began: float = 0.0
    ended: float = 0.0
    lags: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)


def message(number: str) -> video_pb2.CreateVideoRequest:
    """Build a typical request, with a request id and two labels."""
    return video_pb2.CreateVideoRequest(
        text_to_video=video_pb2.TextToVideo(prompt=PROMPT.format(number=number)),
        request_id=f"request-{number}",
        labels={"project": "benchmark", "batch": number[-2:]},
    )


def count_failure(failures: dict[str, int], error: grpc.aio.AioRpcError) -> None:
    """Count a failed call; prints the first of each status on stderr."""
    code = error.code().name
    if code not in failures:
        print(f"{code}: {error.details()}", file=sys.stderr, flush=True)
    failures[code] = failures.get(code, 0) + 1


async def wait_for_start() -> None:
    """Tell the parent that this process is ready, and wait for its signal."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


class ClientLoad:
    """Runs a `LoadPlan`."""

    def __init__(self, plan: LoadPlan, channel: Any) -> None:
        self._plan = plan
        self._videos: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
        self._operations: Any = operations_pb2_grpc.OperationsStub(channel)
        self._random = random.Random(plan.seed)
        self._names: deque[str] = deque(maxlen=RECENT)
        self._number = 0
        self.result = LoadResult()

    async def run(self) -> LoadResult:
        for _ in range(WARM_CALLS):
            await self._create(time.perf_counter())
            await self._get(time.perf_counter())
        await wait_for_start()
        self.result = LoadResult()
        started = time.perf_counter()
        end = started + self._plan.seconds
        flows = [self._create_until(end) for _ in range(self._plan.creators)]
        flows += [
            self._on_time(rate, end, call)
            for rate, call in ((self._plan.rate / self._plan.batch, self._create), (self._plan.gets, self._get))
            if rate > 0
        ]
        await asyncio.gather(*flows)
        self.result.seconds = time.perf_counter() - started
        return self.result

    async def _create_until(self, end: float) -> None:
        while (now := time.perf_counter()) < end:
            await self._create(now)

    async def _on_time(self, rate: float, end: float, call: Callable[[float], Awaitable[None]]) -> None:
        due, calls = time.perf_counter(), set[asyncio.Task[None]]()
        while (due := due + self._random.expovariate(rate)) < end:
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            task = asyncio.ensure_future(call(due))
            calls.add(task)
            task.add_done_callback(calls.discard)
        await asyncio.gather(*calls)

    async def _create(self, due: float) -> None:
        requests = [self._request() for _ in range(self._plan.batch)]
        try:
            if len(requests) == 1:
                made = [await self._videos.CreateVideo(requests[0])]
            else:
                batch = video_pb2.BatchCreateVideosRequest(requests=requests)
                made = list((await self._videos.BatchCreateVideos(batch)).operations)
        except grpc.aio.AioRpcError as error:
            count_failure(self.result.failures, error)
            return
        self.result.creates.append(time.perf_counter() - due)
        self.result.made += len(made)
        self._names.extend(operation.name for operation in made)

    def _request(self) -> video_pb2.CreateVideoRequest:
        self._number += 1
        return message(f"{self._plan.name}-{self._number:06d}")

    async def _get(self, due: float) -> None:
        request = operations_pb2.GetOperationRequest(name=self._random.choice(self._names))
        try:
            await self._operations.GetOperation(request)
        except grpc.aio.AioRpcError as error:
            count_failure(self.result.failures, error)
            return
        self.result.gets.append(time.perf_counter() - due)


class Watch:
    """Runs a `WatchPlan`."""

    def __init__(self, plan: WatchPlan, channel: Any) -> None:
        self._plan = plan
        self._videos: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
        self._open = 0
        self._all_open = asyncio.Event()
        self._counting = False
        self.result = WatchResult()

    async def run(self) -> WatchResult:
        started = time.perf_counter()
        follows = [asyncio.ensure_future(self._follow(name)) for name in self._plan.names]
        await self._all_open.wait()
        self.result.opened = time.perf_counter() - started
        await wait_for_start()
        self._counting = True
        await asyncio.gather(*follows)
        return self.result

    async def _follow(self, name: str) -> None:
        first = True
        try:
            async for event in self._videos.WatchVideo(video_pb2.WatchVideoRequest(name=name)):
                now = time.time()
                if self._counting:
                    self.result.began = self.result.began or now
                    self.result.events, self.result.ended = self.result.events + 1, now
                if event.done:
                    at = event.metadata.end_time
                    self.result.lags.append(now - at.seconds - at.nanos / 1e9)
                if first:
                    first = False
                    self._stream_opened()
        except grpc.aio.AioRpcError as error:
            count_failure(self.result.failures, error)
            if first:
                self._stream_opened()

    def _stream_opened(self) -> None:
        self._open += 1
        if self._open == len(self._plan.names):
            self._all_open.set()


async def run(values: dict[str, Any]) -> LoadResult | WatchResult:
    """Run a plan given as a dict."""
    async with grpc.aio.insecure_channel(values["target"], options=OPTIONS) as channel:
        if "names" in values:
            return await Watch(WatchPlan(**values), channel).run()
        return await ClientLoad(LoadPlan(**values), channel).run()


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(json.loads(sys.argv[1]))))), flush=True)
