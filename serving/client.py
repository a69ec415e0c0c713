"""The synchronous client of the gRPC API: plain data classes in and out, and calls that outlive a gateway's restart."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from model.tasks import Violation
from serving.api.zoetrope.video.v1 import video_pb2, video_pb2_grpc
from serving.client_types import (
    ClientError,
    ModelInfo,
    OperationStatus,
    Page,
    VideoInfo,
    create_request,
    from_rpc_error,
    model_info,
    operation_status,
    watch_status,
)

__all__ = ["ClientError", "ModelInfo", "OperationStatus", "Page", "VideoClient", "VideoInfo", "Violation"]

CALL_SECONDS = 30.0
RETRY_SECONDS = 30.0
RETRY_PAUSE_SECONDS = 0.1
WAIT_SECONDS = 20.0  # of one call; a longer wait is several
ARTIFACTS = {"video": video_pb2.VIDEO_ARTIFACT_VIDEO, "latents": video_pb2.VIDEO_ARTIFACT_LATENTS}
OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.keepalive_time_ms", 20_000),  # a stream to a machine that is gone ends
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class VideoClient:
    """One service. Every method raises ClientError when the service refuses, fails or does not answer.

    create, watch, wait and download go on after a gateway was restarted; the other calls are not repeated. Safe to use
    from several threads.
    """

    def __init__(self, target: str, retry_seconds: float = RETRY_SECONDS) -> None:
        """
        Args:
            target: HOST:PORT.
            retry_seconds: how long a service may be away before the calls that survive that give up.
        """
        self._target = target
        self._retry_seconds = retry_seconds
        self._channel = grpc.insecure_channel(target, options=OPTIONS)
        self._videos: Any = video_pb2_grpc.VideoServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._operations: Any = operations_pb2_grpc.OperationsStub(self._channel)

    def __enter__(self) -> VideoClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all calls."""
        self._channel.close()

    def create(self, request: Mapping[str, Any] | None = None, **fields: Any) -> str:
        """Submit a job and return its operation's name.

        Args:
            request: fields of a model.tasks.VideoRequest.
            fields: the same, or more of them. ``prompt`` and ``negative_prompt`` may stand for ``task``. With
                ``request_id`` the call can be repeated at will; one is made up if it is missing.
        """
        message = create_request({**(request or {}), **fields})
        message.request_id = message.request_id or uuid4().hex
        patience = Patience(self._retry_seconds)
        while True:
            try:
                return str(self._call(self._videos.CreateVideo, message).name)
            except ClientError as error:
                patience.failed(error)

    def get(self, name: str) -> OperationStatus:
        return operation_status(
            self._call(self._operations.GetOperation, operations_pb2.GetOperationRequest(name=name))
        )

    def list(self, page_size: int = 0, page_token: str = "", filter: str = "") -> Page:
        """
        Args:
            page_size: at most; 0 for the service's own choice.
            page_token: of the page before; "" for the first one.
            filter: done=true, done=false or state=queued|running|succeeded|failed|cancelled.
        """
        request = operations_pb2.ListOperationsRequest(
            name="operations", page_size=page_size, page_token=page_token, filter=filter
        )
        answer = self._call(self._operations.ListOperations, request)
        return Page(tuple(operation_status(operation) for operation in answer.operations), answer.next_page_token)

    def cancel(self, name: str) -> None:
        """Ask for the end of a job; it is done once it says so. A job that is done stays as it is."""
        self._call(self._operations.CancelOperation, operations_pb2.CancelOperationRequest(name=name))

    def delete(self, name: str) -> None:
        """Forget a job that is done, and its files."""
        self._call(self._operations.DeleteOperation, operations_pb2.DeleteOperationRequest(name=name))

    def models(self) -> tuple[ModelInfo, ...]:
        answer = self._call(self._videos.ListModels, video_pb2.ListModelsRequest())
        return tuple(model_info(model) for model in answer.models)

    def wait(self, name: str, timeout_seconds: float | None = None) -> OperationStatus:
        """Until the job is done or the time is over; the status then."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        patience = Patience(self._retry_seconds)
        while True:
            left = WAIT_SECONDS if end is None else min(WAIT_SECONDS, max(0.0, end - time.monotonic()))
            request = operations_pb2.WaitOperationRequest(name=name)
            request.timeout.FromMicroseconds(int(left * 1e6))
            try:
                status = operation_status(self._call(self._operations.WaitOperation, request))
            except ClientError as error:
                patience.failed(error)
                continue
            patience.succeeded()
            if status.done or (end is not None and time.monotonic() >= end):
                return status

    def watch(self, name: str) -> Iterator[OperationStatus]:
        """A status each time that something changes; the last one is done. Steps never go back within an attempt."""
        last: OperationStatus | None = None
        patience = Patience(self._retry_seconds)
        while True:
            call = self._videos.WatchVideo(video_pb2.WatchVideoRequest(name=name))
            try:
                for event in call:
                    patience.succeeded()
                    status = watch_status(name, event)
                    # A new stream begins with what the old one said last.
                    if last is None or replace(status, eta_seconds=last.eta_seconds) != last:
                        yield status
                    if status.done:
                        return
                    last = status
                patience.failed(ClientError("UNAVAILABLE", f"{name}: the stream ended before the job was done"))
            except grpc.RpcError as error:
                patience.failed(from_rpc_error(error, self._target))
            finally:
                call.cancel()

    def download(
        self,
        name: str,
        path: Path,
        artifact: str = "video",
        on_progress: Callable[[int, int], None] | None = None,
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
        if artifact not in ARTIFACTS:
            raise ClientError("INVALID_ARGUMENT", f"artifact: {artifact!r} is not one of {', '.join(ARTIFACTS)}")
        partial = path.with_name(f".{path.name}.{name.rpartition('/')[2]}.partial")
        left_over = partial.exists()
        try:
            while not self._fetch(name, partial, ARTIFACTS[artifact], on_progress or (lambda have, total: None)):
                partial.unlink()
                if not left_over:
                    raise ClientError("DATA_LOSS", f"{name}: the {artifact} arrived with a wrong SHA-256")
                left_over = False
            os.replace(partial, path)
        finally:
            if partial.exists() and partial.stat().st_size == 0:  # refused at once: nothing to go on with
                partial.unlink()

    def _fetch(
        self, name: str, partial: Path, artifact: video_pb2.VideoArtifact, on_progress: Callable[[int, int], None]
    ) -> bool:
        """Append to `partial` until it has all bytes; False when they are the wrong ones."""
        patience = Patience(self._retry_seconds)
        digest = hashlib.sha256()
        with partial.open("ab+") as file:
            file.seek(0)
            while block := file.read(1 << 20):
                digest.update(block)
            offset = file.tell()
            while True:
                request = video_pb2.DownloadVideoRequest(name=name, artifact=artifact, offset=offset)
                call = self._videos.DownloadVideo(request)
                total, sha256 = -1, ""
                error = ClientError("UNAVAILABLE", f"{name}: the stream ended before the file did")
                try:
                    for chunk in call:
                        patience.succeeded()
                        file.write(chunk.data)
                        digest.update(chunk.data)
                        offset += len(chunk.data)
                        total, sha256 = chunk.total_bytes, chunk.sha256
                        on_progress(offset, total)
                except grpc.RpcError as rpc_error:
                    error = from_rpc_error(rpc_error, self._target)
                    if error.code == "OUT_OF_RANGE":
                        return False
                finally:
                    call.cancel()
                if offset == total:
                    file.flush()
                    os.fsync(file.fileno())
                    return digest.hexdigest() == sha256
                patience.failed(error)

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from None


class Patience:
    """Bears with a service that is away, for a bounded time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None

    def succeeded(self) -> None:
        """It answered, so the time starts anew."""
        self._end = None

    def failed(self, error: ClientError) -> None:
        """Returns after a pause when it is worth trying again, else raises the error."""
        now = time.monotonic()
        self._end = now + self._seconds if self._end is None else self._end
        if error.code != "UNAVAILABLE" or now >= self._end:
            raise error
        time.sleep(RETRY_PAUSE_SECONDS)
