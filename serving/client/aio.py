"""The asynchronous client of the gRPC API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, Unpack, cast

import grpc

from serving.client.answers import from_rpc_error
from serving.client.channel import OPTIONS, Stubs, call_metadata, credentials
from serving.client.files import no_progress
from serving.client.flows import Flows
from serving.client.steps import Emit, Flow, Next, Off, Open, Send, Sleep, Step, Unary, advance
from serving.client.types import (
    AccountInfo,
    ExtendFields,
    MediaFile,
    MediaPage,
    ModelInfo,
    OperationStatus,
    Page,
    Request,
    Tls,
    VideoEvent,
    VideoFields,
)

RETRY_SECONDS = 30.0
T = TypeVar("T")
Results: TypeAlias = list[Any]  # inside the client the name `list` is a method


class AsyncVideoClient:
    """`serving.client.VideoClient` for asyncio: the same methods with the same meaning. For one event loop."""

    def __init__(
        self,
        target: str,
        retry_seconds: float = RETRY_SECONDS,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        patience: float = 0.0,
    ) -> None:
        self._target = target
        self._flows = Flows(retry_seconds, patience)
        self._metadata = call_metadata(api_key)
        secured = credentials(tls)
        self._channel = (
            grpc.aio.insecure_channel(target, options=OPTIONS)
            if secured is None
            else grpc.aio.secure_channel(target, secured, options=OPTIONS)
        )
        self._stubs = Stubs(self._channel)

    async def __aenter__(self) -> AsyncVideoClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def create(
        self,
        request: Request | None = None,
        *,
        on_upload: Callable[[str, int, int], object] = lambda field, sent, total: None,
        **fields: Unpack[VideoFields],
    ) -> str:
        return await self._run(self._flows.create(request, fields, on_upload))

    async def create_batch(
        self,
        requests: Sequence[Request],
        *,
        on_upload: Callable[[str, int, int], object] = lambda field, sent, total: None,
    ) -> tuple[str, ...]:
        return await self._run(self._flows.create_batch(requests, on_upload))

    async def extend(self, name: str, prompt: str = "", **fields: Unpack[ExtendFields]) -> str:
        return await self._run(self._flows.extend(name, prompt, fields))

    async def update(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        expire_time: float | datetime | None = None,
    ) -> OperationStatus:
        return await self._run(self._flows.update(name, labels, priority, expire_time))

    async def get(self, name: str) -> OperationStatus:
        return await self._run(self._flows.get(name))

    async def list(self, page_size: int = 0, page_token: str = "", filter: str = "") -> Page:
        return await self._run(self._flows.list(page_size, page_token, filter))

    def iterate(self, filter: str = "") -> AsyncIterator[OperationStatus]:
        return self._drive(self._flows.iterate(filter))

    async def cancel(self, name: str) -> None:
        await self._run(self._flows.cancel(name))

    async def delete(self, name: str) -> None:
        await self._run(self._flows.delete(name))

    async def wait(self, name: str, timeout_seconds: float | None = None) -> OperationStatus:
        return await self._run(self._flows.wait(name, timeout_seconds))

    def watch(self, name: str, *, previews: bool = False) -> AsyncIterator[OperationStatus]:
        return self._drive(self._flows.watch(name, previews))

    async def events(self, name: str) -> tuple[VideoEvent, ...]:
        return await self._run(self._flows.events(name))

    async def replay_webhooks(self, name: str) -> int:
        return await self._run(self._flows.replay_webhooks(name))

    async def webhook_secret(self) -> str:
        return await self._run(self._flows.webhook_secret())

    async def account(self) -> AccountInfo:
        return await self._run(self._flows.account())

    async def models(self) -> tuple[ModelInfo, ...]:
        return await self._run(self._flows.models())

    async def upload(
        self,
        source: Path | bytes,
        *,
        filename: str = "",
        on_progress: Callable[[int, int], object] = no_progress,
        resume: str = "",
    ) -> MediaFile:
        return await self._run(self._flows.upload(source, filename, on_progress, resume))

    async def get_media(self, name: str) -> MediaFile:
        return await self._run(self._flows.get_media(name))

    async def list_media(self, page_size: int = 0, page_token: str = "") -> MediaPage:
        return await self._run(self._flows.list_media(page_size, page_token))

    async def delete_media(self, name: str) -> None:
        await self._run(self._flows.delete_media(name))

    def read(self, name: str, offset: int = 0, length: int = 0, artifact: str = "video") -> AsyncIterator[bytes]:
        return self._drive(self._flows.read(name, offset, length, artifact))

    async def download(
        self,
        name: str,
        path: Path | str,
        artifact: str = "video",
        on_progress: Callable[[int, int], object] = no_progress,
    ) -> None:
        await self._run(self._flows.download(name, path, artifact, on_progress))

    async def _run(self, flow: Flow[T]) -> T:
        result: Results = []
        async for _ in self._drive(flow, result):
            raise AssertionError("a flow that is no iterator emitted something")
        return cast(T, result[0])

    async def _drive(self, flow: Flow[T], result: Results | None = None) -> AsyncIterator[Any]:
        """Carry out a flow's steps; yields what it emits, and puts what it returns into ``result``."""
        stream: Any = None
        outcome: Any = None
        error: Exception | None = None
        try:
            while True:
                step, returned = advance(flow, outcome, error)
                if step is None:
                    if result is not None:
                        result.append(returned)
                    return
                outcome, error = None, None
                if isinstance(step, Emit):
                    yield step.item
                    continue
                try:
                    if isinstance(step, Open):
                        if stream is not None:
                            stream.cancel()
                        stream = self._stubs.method(step.method)(step.message, metadata=self._metadata)
                    else:
                        outcome = await self._do(step, stream)
                except grpc.RpcError as failed:
                    error = from_rpc_error(failed, self._target)
                except Exception as failed:
                    error = failed
        finally:
            flow.close()
            if stream is not None:
                stream.cancel()

    async def _do(self, step: Step, stream: Any) -> Any:
        match step:
            case Unary():
                method = self._stubs.method(step.method)
                return await method(step.message, timeout=step.seconds, metadata=self._metadata)
            case Send():
                return await self._stubs.method(step.method)(_off_loop(step.messages()), metadata=self._metadata)
            case Next():
                message = await stream.read()
                return None if message is grpc.aio.EOF else message
            case Sleep():
                return await asyncio.sleep(step.seconds)
            case Off():
                return await asyncio.to_thread(step.run)
        raise AssertionError(f"{step} is no step that can be done")


async def _off_loop(items: Iterator[Any]) -> AsyncIterator[Any]:
    """Items that are made in threads."""
    while (item := await asyncio.to_thread(next, items, None)) is not None:
        yield item
