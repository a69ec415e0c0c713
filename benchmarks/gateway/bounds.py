"""Measure gRPC and the store by themselves, each in its own process.

    python -m zoetrope.benchmarks.gateway.bounds grpc
    python -m zoetrope.benchmarks.gateway.bounds store DATABASE_URL SECONDS CALLERS

``grpc`` is a server with the gateway's options and services whose methods only return a message of the usual size; it
prints its address and exits when its stdin closes. ``store`` creates jobs as the gateway does, from CALLERS coroutines
of one event loop, and prints creates and seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from zoetrope.benchmarks.gateway.jobs import JobMaker
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2_grpc
from zoetrope.serving.gateway.grpc import encode
from zoetrope.serving.gateway.grpc.server import OPTIONS
from zoetrope.serving.gateway.watch.outlook import Outlook
from zoetrope.serving.jobs.admission import EncodedJob
from zoetrope.serving.jobs.job import QueueLimits
from zoetrope.serving.jobs.open import open_stores

LIMITS = QueueLimits(10_000_000)


class EmptyServicer:
    """Implements both services with methods that do nothing."""

    def __init__(self) -> None:
        new = JobMaker("empty").make({"project": "benchmark", "batch": "00"})
        job = replace(EncodedJob.of(new).job, created_at=time.time())
        self._answer = encode.operation(job, Outlook(0, None))

    async def CreateVideo(self, request: Any, context: Any) -> operations_pb2.Operation:  # noqa: N802
        return self._answer

    async def GetOperation(self, request: Any, context: Any) -> operations_pb2.Operation:  # noqa: N802
        return self._answer

    def __getattr__(self, name: str) -> Any:  # methods that are not called
        return None


async def serve_empty() -> None:
    """Serve until stdin closes."""
    server = grpc.aio.server(options=OPTIONS)
    add: Any = video_pb2_grpc.add_VideoServiceServicer_to_server
    add(EmptyServicer(), server)
    operations_pb2_grpc.add_OperationsServicer_to_server(EmptyServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(os.read, 0, 1)
    await server.stop(None)


async def create(database: str, seconds: float, callers: int) -> dict[str, float]:
    """Create jobs for ``seconds``; returns the count and the wall and processor seconds."""
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
        asyncio.run(serve_empty())
    else:
        print(json.dumps(asyncio.run(create(sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))), flush=True)
