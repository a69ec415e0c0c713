"""A process of clients: generated stubs on one connection, many calls at a time.

    python -m benchmarks.gateway.client '{"target": ..., ...}'

The argument is a `LoadPlan` or a `WatchPlan` as JSON. Prints ``ready``, begins at the first line on its stdin, and
prints what it saw as one line of JSON.
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

from serving.api.zoetrope.video.v1 import video_pb2, video_pb2_grpc

WARM_CALLS = 50
RECENT = 1_000  # names that gets choose from
PROMPT = "a red circle moves slowly from the left to the right over a dark blue field, number {number}"
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True)
class LoadPlan:
    """Creates and gets for a while.

    Attributes:
        creators: that create one after the other, as fast as answers come; 0 with a ``rate``.
        rate: creates a second at random moments (exponential gaps), whether earlier ones were answered or not; a call's
            time then counts from the moment at which it was due.
        gets: as ``rate``, of GetOperation for a random one of the last jobs.
        batch: jobs in each create; ``rate`` counts jobs.
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
class LoadSeen:
    """Seconds of each call that was answered, and how many failed by status. ``made``: jobs."""

    creates: list[float] = field(default_factory=list)
    gets: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0  # from the start to the last answer
    made: int = 0


@dataclass(frozen=True)
class WatchPlan:
    """Follow these operations to their end."""

    target: str
    names: tuple[str, ...]


@dataclass
class WatchSeen:
    """``opened``: seconds from the first call until every stream had its first event. ``lags``: seconds from the end of
    each job to the event that told of it. ``began``, ``ended``: seconds since the epoch of the first event after the
    start and of the last one."""

    opened: float = 0.0
    events: int = 0
    began: float = 0.0
    ended: float = 0.0
    lags: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)


def message(number: str) -> video_pb2.CreateVideoRequest:
    """A request as clients send it: with an id of its own, so that it may be repeated, and two labels."""
    return video_pb2.CreateVideoRequest(
        text_to_video=video_pb2.TextToVideo(prompt=PROMPT.format(number=number)),
        request_id=f"request-{number}",
        labels={"project": "benchmark", "batch": number[-2:]},
    )


def count(failures: dict[str, int], error: grpc.aio.AioRpcError) -> None:
    """Note a call that failed; the first of its status is told on stderr."""
    code = error.code().name
    if code not in failures:
        print(f"{code}: {error.details()}", file=sys.stderr, flush=True)
    failures[code] = failures.get(code, 0) + 1


async def go() -> None:
    """Tell the parent that all is ready, and wait for its word."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


class Load:
    """One run of a `LoadPlan`."""

    def __init__(self, plan: LoadPlan, channel: Any) -> None:
        self._plan = plan
        self._videos: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
        self._operations: Any = operations_pb2_grpc.OperationsStub(channel)
        self._random = random.Random(plan.seed)
        self._names: deque[str] = deque(maxlen=RECENT)
        self._number = 0
        self.seen = LoadSeen()

    async def run(self) -> LoadSeen:
        for _ in range(WARM_CALLS):
            await self._create(time.perf_counter())
            await self._get(time.perf_counter())
        await go()
        self.seen = LoadSeen()
        started = time.perf_counter()
        end = started + self._plan.seconds
        flows = [self._create_until(end) for _ in range(self._plan.creators)]
        flows += [
            self._on_time(rate, end, call)
            for rate, call in ((self._plan.rate / self._plan.batch, self._create), (self._plan.gets, self._get))
            if rate > 0
        ]
        await asyncio.gather(*flows)
        self.seen.seconds = time.perf_counter() - started
        return self.seen

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
            count(self.seen.failures, error)
            return
        self.seen.creates.append(time.perf_counter() - due)
        self.seen.made += len(made)
        self._names.extend(operation.name for operation in made)

    def _request(self) -> video_pb2.CreateVideoRequest:
        self._number += 1
        return message(f"{self._plan.name}-{self._number:06d}")

    async def _get(self, due: float) -> None:
        request = operations_pb2.GetOperationRequest(name=self._random.choice(self._names))
        try:
            await self._operations.GetOperation(request)
        except grpc.aio.AioRpcError as error:
            count(self.seen.failures, error)
            return
        self.seen.gets.append(time.perf_counter() - due)


class Watch:
    """One run of a `WatchPlan`."""

    def __init__(self, plan: WatchPlan, channel: Any) -> None:
        self._plan = plan
        self._videos: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
        self._open = 0
        self._all_open = asyncio.Event()
        self._counting = False
        self.seen = WatchSeen()

    async def run(self) -> WatchSeen:
        started = time.perf_counter()
        follows = [asyncio.ensure_future(self._follow(name)) for name in self._plan.names]
        await self._all_open.wait()
        self.seen.opened = time.perf_counter() - started
        await go()
        self._counting = True
        await asyncio.gather(*follows)
        return self.seen

    async def _follow(self, name: str) -> None:
        first = True
        try:
            async for event in self._videos.WatchVideo(video_pb2.WatchVideoRequest(name=name)):
                now = time.time()
                if self._counting:
                    self.seen.began = self.seen.began or now
                    self.seen.events, self.seen.ended = self.seen.events + 1, now
                if event.done:
                    at = event.metadata.end_time
                    self.seen.lags.append(now - at.seconds - at.nanos / 1e9)
                if first:
                    first = False
                    self._is_open()
        except grpc.aio.AioRpcError as error:
            count(self.seen.failures, error)
            if first:
                self._is_open()

    def _is_open(self) -> None:
        self._open += 1
        if self._open == len(self._plan.names):
            self._all_open.set()


async def run(values: dict[str, Any]) -> LoadSeen | WatchSeen:
    async with grpc.aio.insecure_channel(values["target"], options=OPTIONS) as channel:
        if "names" in values:
            return await Watch(WatchPlan(**values), channel).run()
        return await Load(LoadPlan(**values), channel).run()


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(json.loads(sys.argv[1]))))), flush=True)
