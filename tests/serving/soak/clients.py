"""Clients of a soak: they create jobs, ask again with the same request id after every failure, and fetch the files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from tests.serving.outbound.receiver import Answer, receiving
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2, video_pb2_grpc

END_SECONDS = 600.0  # for a job, whatever happens meanwhile
POLL_SECONDS = 0.3
IN_HAND = 6  # jobs of a client that have not ended
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
CANCELLED = 1  # google.rpc.Code
SIZE = "40x24"
HOOKED = ["start", "completed"]


class Refused(Exception):
    """A call failed for good; the message says which."""


@dataclass
class Order:
    """A job as its client knows it. ``cancelled``: asked to be, it may have ended before that."""

    name: str
    frames: int
    cancelled: bool = False
    deleted: bool = False

    @property
    def job_id(self) -> str:
        return self.name.removeprefix("operations/")


@dataclass
class Ledger:
    """What all clients saw."""

    orders: dict[str, Order] = field(default_factory=dict)  # by request id
    ended: set[str] = field(default_factory=set)  # request ids
    webhooks: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))  # (job, event): ids
    deliveries: int = 0
    replays: int = 0
    retries: Counter[str] = field(default_factory=Counter)  # by method
    problems: list[str] = field(default_factory=list)

    @property
    def in_hand(self) -> int:
        return len(self.orders) - len(self.ended)

    @contextlib.contextmanager
    def hook(self) -> Iterator[str]:
        """Takes webhooks on loopback; every seventh message is refused when it first comes, to be sent again."""
        lock, met = threading.Lock(), set[str]()

        def answer(headers: dict[str, str], body: bytes) -> Answer:
            told, message = json.loads(body), headers["webhook-id"]
            with lock:
                refuse = message not in met and len(met) % 7 == 3
                met.add(message)
                if not refuse:
                    self.webhooks[told["data"]["id"], told["type"]].add(message)
                    self.deliveries += 1
            return Answer(503 if refuse else 204, headers={"retry-after": "1"})

        with receiving(answer) as url:
            yield url


class Client:
    """One of many."""

    def __init__(self, name: str, seed: int, addresses: Callable[[], list[str]], hook: str, ledger: Ledger) -> None:
        """``addresses``: of the gateways at present."""
        self._name = name
        self._random = random.Random(f"{seed} {name}")
        self._addresses = addresses
        self._hook = hook
        self._ledger = ledger
        self._channels: dict[str, grpc.Channel] = {}

    def work(self, count: int, allowed: Callable[[], bool]) -> None:
        """Make so many jobs, a few at a time; a new one only while ``allowed`` says so."""
        waiting: deque[str] = deque()
        made = 0
        while made < count or waiting:
            try:
                if made < count and len(waiting) < IN_HAND and allowed():
                    made += 1
                    waiting.append(self.create(f"{self._name}-{made}"))
                elif waiting:
                    self.collect(waiting.popleft())
                else:
                    time.sleep(POLL_SECONDS)
            except Refused as error:
                self._ledger.problems.append(str(error))

    def create(self, request_id: str, priority: int = 0) -> str:
        """Have one job made; its request id."""
        frames = self._random.choice((1, 5, 9))
        request = video_pb2.CreateVideoRequest(
            text_to_video=video_pb2.TextToVideo(prompt=f"a red circle, number {request_id}"),
            request_id=request_id,
            size=SIZE,
            frames=frames,
            steps=self._random.choice((2, 4, 40)),
            seed=self._random.randrange(1 << 20),
            priority=priority,
            webhook=video_pb2.Webhook(url=self._hook, events=HOOKED),
        )
        name = self._call("CreateVideo", request).name
        order = self._ledger.orders[request_id] = Order(name, frames)
        if self._random.random() < 0.2:
            again = self._call("CreateVideo", request).name
            self._ledger.replays += 1
            if again != name:
                self._ledger.problems.append(f"request {request_id} made {name} and {again}")
        if priority == 0 and self._random.random() < 0.05:
            order.cancelled = True
            self._call("CancelOperation", operations_pb2.CancelOperationRequest(name=name))
        return request_id

    def collect(self, request_id: str) -> None:
        """Wait for the end and fetch the file."""
        order = self._ledger.orders[request_id]
        end = time.monotonic() + END_SECONDS
        while not (operation := self._call("GetOperation", operations_pb2.GetOperationRequest(name=order.name))).done:
            if time.monotonic() > end:
                self._ledger.problems.append(f"{order.name} did not end within {END_SECONDS:g} s")
                return
            time.sleep(POLL_SECONDS)
        self._ledger.ended.add(request_id)
        if operation.HasField("response"):
            self._fetch(order, operation)
        elif not order.cancelled or operation.error.code != CANCELLED:
            self._ledger.problems.append(f"{order.name} failed: {operation.error.message}")
        if self._random.random() < 0.05:
            order.deleted = True
            self._call("DeleteOperation", operations_pb2.DeleteOperationRequest(name=order.name))

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _fetch(self, order: Order, operation: Any) -> None:
        video = video_pb2.Video()
        operation.response.Unpack(video)
        try:
            chunks = self._call("DownloadVideo", video_pb2.DownloadVideoRequest(name=order.name), stream=True)
        except Refused as error:
            self._ledger.problems.append(f"{order.name} succeeded and cannot be downloaded: {error}")
            return
        if hashlib.sha256(b"".join(chunk.data for chunk in chunks)).hexdigest() != video.sha256:
            self._ledger.problems.append(f"{order.name}: the file is not what its checksum says")

    def _call(self, method: str, request: Any, stream: bool = False) -> Any:
        """Call a gateway, again and again while it is away. What was done though nobody heard of it is done."""
        end = time.monotonic() + END_SECONDS
        tried = False
        while True:
            channel = self._channel(self._random.choice(self._addresses()))
            stubs: Any = (
                operations_pb2_grpc.OperationsStub(channel)
                if method.endswith("Operation")
                else video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
            )
            try:
                answer = getattr(stubs, method)(request, timeout=20)
                return list(answer) if stream else answer
            except grpc.RpcError as error:
                if tried and method == "DeleteOperation" and error.code() is grpc.StatusCode.NOT_FOUND:
                    return None
                if error.code() not in RETRIED or time.monotonic() > end:
                    raise Refused(f"{method}: {error.code()}: {error.details()}") from None
                tried = True
                self._ledger.retries[method] += 1
                time.sleep(0.1 + 0.2 * self._random.random())

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 500)])
        return self._channels[address]
