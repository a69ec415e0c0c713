"""The parts alone, each in a process of its own.

    python -m benchmarks.gateway.bounds grpc
    python -m benchmarks.gateway.bounds store DATABASE_URL SECONDS CALLERS

``grpc`` is a server as the gateway's, with the same options and services, whose methods do nothing but answer with a
message of the usual size; it prints its address and ends with its stdin. ``store`` creates jobs as the gateway does,
from so many coroutines of one event loop, and prints creates and seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import closing
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from benchmarks.gateway.jobs import JobMaker
from serving.api.zoetrope.video.v1 import video_pb2_grpc
from serving.gateway import convert
from serving.gateway.server import OPTIONS
from serving.gateway.watching import Outlook
from serving.jobs.job import Limits
from serving.jobs.open import open_stores
from serving.jobs.rows import Encoded

LIMITS = Limits(10_000_000)


class Nothing:
    """Both servicers."""

    def __init__(self) -> None:
        job = Encoded(JobMaker("empty").make({"project": "benchmark", "batch": "00"})).job(time.time())
        self._answer = convert.operation(job, Outlook(0, None))

    async def CreateVideo(self, request: Any, context: Any) -> operations_pb2.Operation:  # noqa: N802
        return self._answer

    async def GetOperation(self, request: Any, context: Any) -> operations_pb2.Operation:  # noqa: N802
        return self._answer

    def __getattr__(self, name: str) -> Any:  # the methods that nobody calls
        return None


async def serve_nothing() -> None:
    server = grpc.aio.server(options=OPTIONS)
    add: Any = video_pb2_grpc.add_VideoServiceServicer_to_server
    add(Nothing(), server)
    operations_pb2_grpc.add_OperationsServicer_to_server(Nothing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(os.read, 0, 1)
    await server.stop(None)


async def create(database: str, seconds: float, callers: int) -> dict[str, float]:
    maker, made = JobMaker("alone"), 0
    with closing(open_stores(database)) as stores:
        started, cpu = time.perf_counter(), time.process_time()

        async def caller() -> None:
            nonlocal made
            while time.perf_counter() < started + seconds:
                await stores.jobs.acreate(maker.make({"project": "benchmark"}), LIMITS)
                made += 1

        await asyncio.gather(*(caller() for _ in range(callers)))
        elapsed = time.perf_counter() - started
        return {"creates": made, "seconds": elapsed, "cpu_seconds": time.process_time() - cpu}


if __name__ == "__main__":
    if sys.argv[1] == "grpc":
        asyncio.run(serve_nothing())
    else:
        print(json.dumps(asyncio.run(create(sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))), flush=True)
