"""The asynchronous client of the gRPC API, which holds all of the client's logic."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Unpack

from google.longrunning import operations_pb2

from zoetrope.model.request.tasks import Violation
from zoetrope.serving.api.zoetrope.video.v1 import account_pb2, engines_pb2, media_pb2, video_pb2
from zoetrope.serving.client import responses, rpc, transfers
from zoetrope.serving.client.overview import EngineInfo, ServiceOverview, engine_info, service_overview
from zoetrope.serving.client.requests import Draft, changes, draft, extension
from zoetrope.serving.client.types import (
    AccountInfo,
    ClientError,
    ExtendFields,
    MediaFile,
    MediaPage,
    ModelInfo,
    OperationStatus,
    Page,
    Request,
    Tls,
    ValidatedVideo,
    VideoEvent,
    VideoFields,
    VideoInfo,
    invalid,
)

RETRY_SECONDS = 30.0
WAIT_SECONDS = 20.0  # of one call; a longer wait is several
PAGE_SIZE = 100


class AsyncVideoClient:
    """One service. Every method raises ClientError if the service refuses, fails or does not answer.

    create, create_batch, extend, wait, watch, read, download and upload survive the restart of a gateway; the other
    calls are repeated for about a second where that can do no harm. Use it in one event loop.
    """

    def __init__(
        self,
        target: str,
        retry_seconds: float = RETRY_SECONDS,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        patience: float = 0.0,
    ) -> None:
        """
        Args:
            target: HOST:PORT.
            retry_seconds: how long calls are repeated while the service is UNAVAILABLE.
            api_key: None takes it from ZOETROPE_API_KEY, "" sends none.
            tls: None for a connection without TLS.
            patience: how many seconds a call waits and tries again if the service refuses it and names a time for the
                next try: a full queue, an exhausted quota or rate limit, storage that is down.
        """
        self._calls = rpc.Calls(target, retry_seconds, patience, api_key, tls)

    async def __aenter__(self) -> AsyncVideoClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all calls."""
        await self._calls.close()

    async def create(
        self,
        request: Request | None = None,
        *,
        on_upload: Callable[[str, int, int], object] | None = None,
        **fields: Unpack[VideoFields],
    ) -> str:
        """Submit a job and return its operation's name. Local files are uploaded first.

        Args:
            request: a zoetrope.model.request.tasks.VideoRequest, one of its tasks, or their fields.
            on_upload: called with the field that names a file, the bytes sent and the bytes in all; in any thread.
            fields: the same fields, which win over ``request``; see VideoFields. Repeating a ``request_id`` returns
                the same job; without one the client makes one up, so that it can repeat the call itself.
        """
        made = draft(request, fields)
        await transfers.upload_all(self._calls, [("", made)], on_upload)
        return str((await self._calls.unary(rpc.CREATE_VIDEO, made.message)).name)

    async def validate(
        self,
        request: Request | None = None,
        *,
        on_upload: Callable[[str, int, int], object] | None = None,
        **fields: Unpack[VideoFields],
    ) -> ValidatedVideo:
        """Check a request as `create` would, and return its price and how it was understood, without creating a job.
        Local files are uploaded, and found again by `create`."""
        made = draft(request, fields)
        await transfers.upload_all(self._calls, [("", made)], on_upload)
        message = video_pb2.ValidateVideoRequest(request=made.message)
        return responses.validated(await self._calls.unary(rpc.VALIDATE_VIDEO, message))

    async def create_batch(
        self, requests: Sequence[Request], *, on_upload: Callable[[str, int, int], object] | None = None
    ) -> tuple[str, ...]:
        """Submit up to 100 jobs, all or none; return their names in the order of the requests."""
        made: list[tuple[str, Draft]] = []
        bad: list[Violation] = []
        for i, request in enumerate(requests):
            try:
                made.append((f"requests.{i}.", draft(request, {})))
            except ClientError as error:
                bad += [replace(v, field=f"requests.{i}.{v.field}") for v in error.violations]
        if bad:
            raise invalid(*bad)
        await transfers.upload_all(self._calls, made, on_upload)
        message = video_pb2.BatchCreateVideosRequest(requests=[item.message for _, item in made])
        answer = await self._calls.unary(rpc.BATCH_CREATE_VIDEOS, message)
        return tuple(operation.name for operation in answer.operations)

    async def extend(self, name: str, prompt: str = "", **fields: Unpack[ExtendFields]) -> str:
        """Continue a finished video; return the name of a new job, made like the first one except for ``fields``."""
        return str((await self._calls.unary(rpc.EXTEND_VIDEO, extension(name, prompt, fields))).name)

    async def update(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        expire_time: float | datetime | None = None,
    ) -> OperationStatus:
        """Change the labels of any job, the priority of a queued one, or when a finished one expires."""
        message = changes(name, labels, priority, expire_time)
        return responses.operation_status(await self._calls.unary(rpc.UPDATE_VIDEO, message))

    async def get(self, name: str) -> OperationStatus:
        """Return the job's state."""
        message = operations_pb2.GetOperationRequest(name=name)
        return responses.operation_status(await self._calls.unary(rpc.GET_OPERATION, message))

    async def get_video(self, name: str) -> VideoInfo:
        """Return the video of a finished job; FAILED_PRECONDITION while there is none."""
        message = video_pb2.GetVideoRequest(name=name)
        return responses.video_info(await self._calls.unary(rpc.GET_VIDEO, message))

    async def list(self, page_size: int = 0, page_token: str = "", filter: str = "") -> Page:
        """Return jobs, newest first.

        Args:
            page_size: at most this many; 0 leaves it to the service.
            page_token: of the page before; "" for the first one.
            filter: done=, state=, model=, task=, labels.KEY=, create_time>= and create_time<, joined by AND, such as
                ``state=succeeded AND labels.project="a b"``.
        """
        message = operations_pb2.ListOperationsRequest(
            name="operations", page_size=page_size, page_token=page_token, filter=filter
        )
        answer = await self._calls.unary(rpc.LIST_OPERATIONS, message)
        return Page(tuple(map(responses.operation_status, answer.operations)), answer.next_page_token)

    async def iterate(self, filter: str = "") -> AsyncGenerator[OperationStatus, None]:
        """Yield all jobs of `list`, newest first."""
        token = ""
        while True:
            page = await self.list(PAGE_SIZE, token, filter)
            for status in page.operations:
                yield status
            token = page.next_page_token
            if not token:
                return

    async def cancel(self, name: str) -> None:
        """Ask for the end of a job, which its state then shows. A finished job stays as it is."""
        await self._calls.unary(rpc.CANCEL_OPERATION, operations_pb2.CancelOperationRequest(name=name))

    async def delete(self, name: str) -> None:
        """Delete a finished job and its files."""
        await self._calls.unary(rpc.DELETE_OPERATION, operations_pb2.DeleteOperationRequest(name=name))

    async def wait(self, name: str, timeout_seconds: float | None = None) -> OperationStatus:
        """Wait until the job is done or the time is up; return its state then."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            left = WAIT_SECONDS if end is None else min(WAIT_SECONDS, max(0.0, end - time.monotonic()))
            message = operations_pb2.WaitOperationRequest(name=name)
            message.timeout.FromMicroseconds(int(left * 1e6))
            status = responses.operation_status(await self._calls.unary(rpc.WAIT_OPERATION, message))
            if status.done or (end is not None and time.monotonic() >= end):
                return status

    async def watch(self, name: str, *, previews: bool = False) -> AsyncGenerator[OperationStatus, None]:
        """Yield the job's state whenever it changes, until it is done. Steps never go back within an attempt.

        Args:
            previews: have small pictures of the clip in the making, each once, in ``preview``.
        """
        message = video_pb2.WatchVideoRequest(name=name, previews=previews)
        last: OperationStatus | None = None
        shown: tuple[int, int] | None = None
        events = self._calls.stream(rpc.WATCH_VIDEO, lambda: message, lambda: False)
        async with aclosing(events):
            async for event in events:
                status = responses.watch_status(name, event)
                if status.preview is not None:
                    mark = (status.attempt, status.preview.step)
                    if mark == shown:
                        status = replace(status, preview=None)
                    shown = mark
                # A new stream begins with what the old one said last.
                plain = replace(status, preview=None)
                if plain != last or status.preview is not None:
                    yield status
                if status.done:
                    return
                last = plain

    async def events(self, name: str) -> tuple[VideoEvent, ...]:
        """Return every change of a job's state, oldest first."""
        message = video_pb2.ListVideoEventsRequest(name=name, page_size=PAGE_SIZE)
        found: list[VideoEvent] = []
        while True:
            answer = await self._calls.unary(rpc.LIST_VIDEO_EVENTS, message)
            found += map(responses.video_event, answer.events)
            message.page_token = answer.next_page_token
            if not message.page_token:
                return tuple(found)

    async def replay_webhooks(self, name: str) -> int:
        """Send all webhooks of a job again; return how many."""
        return (await self._calls.unary(rpc.REPLAY_WEBHOOKS, video_pb2.ReplayWebhooksRequest(name=name))).count

    async def webhook_secret(self) -> str:
        """Return the secret that signs the caller's webhooks (Standard Webhooks)."""
        return (await self._calls.unary(rpc.GET_WEBHOOK_SECRET, account_pb2.GetWebhookSecretRequest())).secret

    async def account(self) -> AccountInfo:
        """Return the caller's limits and their usage."""
        return responses.account_info(await self._calls.unary(rpc.GET_ACCOUNT, account_pb2.GetAccountRequest()))

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return the models that are served."""
        message = video_pb2.ListModelsRequest(page_size=PAGE_SIZE)
        found: list[ModelInfo] = []
        while True:
            answer = await self._calls.unary(rpc.LIST_MODELS, message)
            found += map(responses.model_info, answer.models)
            message.page_token = answer.next_page_token
            if not message.page_token:
                return tuple(found)

    async def engines(self) -> ServiceOverview:
        """Return the engines with what they run, and the queue; of other tenants' jobs, sums alone."""
        message = engines_pb2.ListEnginesRequest(page_size=PAGE_SIZE)
        found: list[EngineInfo] = []
        while True:
            answer = await self._calls.unary(rpc.LIST_ENGINES, message)
            found += map(engine_info, answer.engines)
            message.page_token = answer.next_page_token
            if not message.page_token:
                return service_overview(found, answer)

    async def upload(
        self,
        source: Path | bytes,
        *,
        filename: str = "",
        on_progress: Callable[[int, int], object] | None = None,
        resume: str = "",
    ) -> MediaFile:
        """Store a picture, a clip or a sound for tasks to name; resumes by itself after an interruption.

        Args:
            filename: shown to people; the file's own by default.
            on_progress: called with the bytes sent and the bytes in all; in any thread.
            resume: the name of an upload of the same file that an earlier call did not finish.

        Raises:
            ClientError: also DATA_LOSS, the service received other bytes than were announced.
        """
        media = await transfers.upload(self._calls, source, filename=filename, on_progress=on_progress, resume=resume)
        return responses.media_file(media)

    async def get_media(self, name: str) -> MediaFile:
        """Return what is known of an uploaded file."""
        return responses.media_file(await self._calls.unary(rpc.GET_MEDIA, media_pb2.GetMediaRequest(name=name)))

    async def list_media(self, page_size: int = 0, page_token: str = "") -> MediaPage:
        """Return uploaded files, newest first; arguments as for `list`."""
        message = media_pb2.ListMediaRequest(page_size=page_size, page_token=page_token)
        answer = await self._calls.unary(rpc.LIST_MEDIA, message)
        return MediaPage(tuple(map(responses.media_file, answer.media)), answer.next_page_token)

    async def delete_media(self, name: str) -> None:
        """Delete an uploaded file that no unfinished job uses."""
        await self._calls.unary(rpc.DELETE_MEDIA, media_pb2.DeleteMediaRequest(name=name))

    async def read(
        self, name: str, offset: int = 0, length: int = 0, artifact: str = "video"
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a job's file from ``offset`` on, ``length`` of them or (0) all that follow."""
        answers = transfers.chunks(self._calls, name, artifact, offset, length)
        async with aclosing(answers):
            async for chunk in answers:
                if chunk.data:
                    yield chunk.data

    async def download(
        self,
        name: str,
        path: Path | str,
        artifact: str = "video",
        on_progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Fetch a job's file. It appears under ``path`` once it is whole and its SHA-256 is right.

        What an earlier call left of it, in a hidden file beside ``path``, is not fetched again.

        Args:
            artifact: video or latents.
            on_progress: called with the bytes received and the bytes in all; in any thread.

        Raises:
            ClientError: also DATA_LOSS, the bytes are not those that the service stored.
            OSError: the file cannot be written.
        """
        await transfers.download(self._calls, name, Path(path), artifact, on_progress)
