"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, Unpack, cast

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


class VideoClient:
    """One service. Every method raises ClientError when the service refuses, fails or does not answer.

    create, create_batch, extend, wait, watch, read, download and upload go on after a gateway was restarted; the other
    calls are repeated for about a second where that can do no harm. Safe to use from several threads.
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
            retry_seconds: how long a service may be away before the calls that survive that give up.
            api_key: None takes it from ZOETROPE_API_KEY, "" sends none.
            tls: None for a connection without TLS.
            patience: how many seconds a call waits and tries again where the service refuses it and says when it is
                worth trying again: a full queue, a quota or rate that is used up, a store that is away.
        """
        self._target = target
        self._flows = Flows(retry_seconds, patience)
        self._metadata = call_metadata(api_key)
        secured = credentials(tls)
        self._channel = (
            grpc.insecure_channel(target, options=OPTIONS)
            if secured is None
            else grpc.secure_channel(target, secured, options=OPTIONS)
        )
        self._stubs = Stubs(self._channel)

    def __enter__(self) -> VideoClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all calls."""
        self._channel.close()

    def create(
        self,
        request: Request | None = None,
        *,
        on_upload: Callable[[str, int, int], object] = lambda field, sent, total: None,
        **fields: Unpack[VideoFields],
    ) -> str:
        """Submit a job and return its operation's name. Its local files are uploaded first.

        Args:
            request: a model.tasks.VideoRequest, one of its tasks, or their fields.
            on_upload: called with the field that names a file, the bytes sent and the bytes in all; in any thread.
            fields: the same, or more of them, see VideoFields. With ``request_id`` the call can be repeated at
                will; one is made up if it is missing, so that it can be repeated here.
        """
        return self._run(self._flows.create(request, fields, on_upload))

    def create_batch(
        self,
        requests: Sequence[Request],
        *,
        on_upload: Callable[[str, int, int], object] = lambda field, sent, total: None,
    ) -> tuple[str, ...]:
        """Submit up to 100 jobs, all or none; their names in the order of the requests."""
        return self._run(self._flows.create_batch(requests, on_upload))

    def extend(self, name: str, prompt: str = "", **fields: Unpack[ExtendFields]) -> str:
        """Go on where a finished video ends: the name of a new job, made as that one but for ``fields``."""
        return self._run(self._flows.extend(name, prompt, fields))

    def update(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        expire_time: float | datetime | None = None,
    ) -> OperationStatus:
        """Change what is not None: labels of any job, the priority of a queued one, when a job that is done expires."""
        return self._run(self._flows.update(name, labels, priority, expire_time))

    def get(self, name: str) -> OperationStatus:
        return self._run(self._flows.get(name))

    def list(self, page_size: int = 0, page_token: str = "", filter: str = "") -> Page:
        """
        Args:
            page_size: at most; 0 for the service's own choice.
            page_token: of the page before; "" for the first one.
            filter: done=, state=, model=, task=, labels.KEY=, create_time>= and create_time<, joined by AND, such as
                ``state=succeeded AND labels.project="a b"``.
        """
        return self._run(self._flows.list(page_size, page_token, filter))

    def iterate(self, filter: str = "") -> Iterator[OperationStatus]:
        """All jobs of `list`, newest first."""
        return self._iterate(self._flows.iterate(filter))

    def cancel(self, name: str) -> None:
        """Ask for the end of a job; it is done once it says so. A job that is done stays as it is."""
        self._run(self._flows.cancel(name))

    def delete(self, name: str) -> None:
        """Forget a job that is done, and its files."""
        self._run(self._flows.delete(name))

    def wait(self, name: str, timeout_seconds: float | None = None) -> OperationStatus:
        """Until the job is done or the time is over; the status then."""
        return self._run(self._flows.wait(name, timeout_seconds))

    def watch(self, name: str, *, previews: bool = False) -> Iterator[OperationStatus]:
        """A status each time that something changes; the last one is done. Steps never go back within an attempt.

        Args:
            previews: have small pictures of the clip in the making, each once, in ``preview``.
        """
        return self._iterate(self._flows.watch(name, previews))

    def events(self, name: str) -> tuple[VideoEvent, ...]:
        """Every change of state that a job went through, oldest first."""
        return self._run(self._flows.events(name))

    def replay_webhooks(self, name: str) -> int:
        """Send all webhooks of a job again; how many they are."""
        return self._run(self._flows.replay_webhooks(name))

    def webhook_secret(self) -> str:
        """What signs the caller's webhooks (Standard Webhooks)."""
        return self._run(self._flows.webhook_secret())

    def account(self) -> AccountInfo:
        """The caller's limits and what is used of them."""
        return self._run(self._flows.account())

    def models(self) -> tuple[ModelInfo, ...]:
        return self._run(self._flows.models())

    def upload(
        self,
        source: Path | bytes,
        *,
        filename: str = "",
        on_progress: Callable[[int, int], object] = no_progress,
        resume: str = "",
    ) -> MediaFile:
        """Store a picture, a clip or a sound for tasks to name; goes on where it stopped when the service was away.

        Args:
            filename: for people; by default the file's own.
            on_progress: called with the bytes sent and the bytes in all; in any thread.
            resume: the name of an upload of the same file that an earlier call did not end.

        Raises:
            ClientError: also DATA_LOSS, when the service received other bytes than those that were announced.
        """
        return self._run(self._flows.upload(source, filename, on_progress, resume))

    def get_media(self, name: str) -> MediaFile:
        return self._run(self._flows.get_media(name))

    def list_media(self, page_size: int = 0, page_token: str = "") -> MediaPage:
        """Uploaded files, newest first; as of `list`."""
        return self._run(self._flows.list_media(page_size, page_token))

    def delete_media(self, name: str) -> None:
        """Delete an uploaded file that no unfinished job uses."""
        self._run(self._flows.delete_media(name))

    def read(self, name: str, offset: int = 0, length: int = 0, artifact: str = "video") -> Iterator[bytes]:
        """The bytes of a job's file from ``offset`` on, ``length`` of them or (0) all that follow."""
        return self._iterate(self._flows.read(name, offset, length, artifact))

    def download(
        self,
        name: str,
        path: Path | str,
        artifact: str = "video",
        on_progress: Callable[[int, int], object] = no_progress,
    ) -> None:
        """Fetch a job's file. It appears under `path` when it is whole and its SHA-256 is right.

        What an earlier call left of it, in a hidden file beside `path`, is not fetched again.

        Args:
            artifact: video or latents.
            on_progress: called with the bytes that are there and the bytes in all.

        Raises:
            ClientError: also DATA_LOSS, when the bytes are not those that the service stored.
            OSError: the file cannot be written.
        """
        self._run(self._flows.download(name, path, artifact, on_progress))

    def _run(self, flow: Flow[T]) -> T:
        driven = self._drive(flow)
        try:
            next(driven)
        except StopIteration as end:
            return cast(T, end.value)
        raise AssertionError("a flow that is no iterator emitted something")

    def _iterate(self, flow: Flow[None]) -> Iterator[Any]:
        yield from self._drive(flow)

    def _drive(self, flow: Flow[T]) -> Generator[Any, None, T | None]:
        """Carry out a flow's steps; yields what it emits, returns what it returns."""
        stream: Any = None
        outcome: Any = None
        error: Exception | None = None
        try:
            while True:
                step, result = advance(flow, outcome, error)
                if step is None:
                    return result
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
                        outcome = self._do(step, stream)
                except grpc.RpcError as failed:
                    error = from_rpc_error(failed, self._target)
                except Exception as failed:
                    error = failed
        finally:
            flow.close()
            if stream is not None:
                stream.cancel()

    def _do(self, step: Step, stream: Any) -> Any:
        match step:
            case Unary():
                return self._stubs.method(step.method)(step.message, timeout=step.seconds, metadata=self._metadata)
            case Send():
                return self._stubs.method(step.method)(step.messages(), metadata=self._metadata)
            case Next():
                return next(stream, None)
            case Sleep():
                return time.sleep(step.seconds)
            case Off():
                return step.run()
        raise AssertionError(f"{step} is no step that can be done")
