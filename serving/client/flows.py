"""Every method of the client as a flow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from google.longrunning import operations_pb2

from model.tasks import Violation
from serving.api.zoetrope.video.v1 import account_pb2, media_pb2, video_pb2
from serving.client import files
from serving.client.answers import (
    account_info,
    media_file,
    model_info,
    operation_status,
    video_event,
    watch_status,
)
from serving.client.requests import Draft, changes, draft, extension
from serving.client.steps import CALL_SECONDS, Emit, Flow, Next, Open, Patience, Sleep, call
from serving.client.types import (
    AccountInfo,
    ClientError,
    MediaFile,
    MediaPage,
    ModelInfo,
    OperationStatus,
    Page,
    Request,
    VideoEvent,
    invalid,
)

CREATE_SECONDS = 120.0  # in which a service may fetch what a request names
WAIT_SECONDS = 20.0  # of one call; a longer wait is several
PAGE_SIZE = 100
UploadProgress = Callable[[str, int, int], object]  # field, bytes sent, bytes in all


@dataclass(frozen=True)
class Flows:
    """
    Attributes:
        away_seconds: how long calls that outlive a restart of the service bear with its absence.
        patience: how long any call waits where the service refuses and says when to try again.
    """

    away_seconds: float
    patience: float

    # Jobs.

    def create(self, request: Request | None, fields: Mapping[str, Any], on_upload: UploadProgress) -> Flow[str]:
        made, patience = draft(request, fields), self._enduring()
        yield from self._upload_all([("", made)], on_upload, patience)
        answer = yield from call("VideoService.CreateVideo", made.message, patience, CREATE_SECONDS)
        return str(answer.name)

    def create_batch(self, requests: Sequence[Request], on_upload: UploadProgress) -> Flow[tuple[str, ...]]:
        made: list[tuple[str, Draft]] = []
        bad: list[Violation] = []
        for i, request in enumerate(requests):
            try:
                made.append((f"requests.{i}.", draft(request, {})))
            except ClientError as error:
                bad += [replace(v, field=f"requests.{i}.{v.field}") for v in error.violations]
        if bad:
            raise invalid(*bad)
        patience = self._enduring()
        yield from self._upload_all(made, on_upload, patience)
        message = video_pb2.BatchCreateVideosRequest(requests=[item.message for _, item in made])
        answer = yield from call("VideoService.BatchCreateVideos", message, patience, CREATE_SECONDS)
        return tuple(operation.name for operation in answer.operations)

    def extend(self, name: str, prompt: str, fields: Mapping[str, Any]) -> Flow[str]:
        message = extension(name, prompt, fields)
        answer = yield from call("VideoService.ExtendVideo", message, self._enduring(), CREATE_SECONDS)
        return str(answer.name)

    def update(
        self,
        name: str,
        labels: Mapping[str, str] | None,
        priority: int | None,
        expire_time: float | datetime | None,
    ) -> Flow[OperationStatus]:
        message = changes(name, labels, priority, expire_time)
        return operation_status((yield from self._call("VideoService.UpdateVideo", message)))

    def get(self, name: str) -> Flow[OperationStatus]:
        message = operations_pb2.GetOperationRequest(name=name)
        return operation_status((yield from self._call("Operations.GetOperation", message)))

    def list(self, page_size: int, page_token: str, filter: str) -> Flow[Page]:
        message = operations_pb2.ListOperationsRequest(
            name="operations", page_size=page_size, page_token=page_token, filter=filter
        )
        answer = yield from self._call("Operations.ListOperations", message)
        return Page(tuple(map(operation_status, answer.operations)), answer.next_page_token)

    def iterate(self, filter: str) -> Flow[None]:
        token = ""
        while True:
            page = yield from self.list(PAGE_SIZE, token, filter)
            for status in page.operations:
                yield Emit(status)
            token = page.next_page_token
            if not token:
                return

    def cancel(self, name: str) -> Flow[None]:
        yield from self._call("Operations.CancelOperation", operations_pb2.CancelOperationRequest(name=name))

    def delete(self, name: str) -> Flow[None]:
        yield from self._call("Operations.DeleteOperation", operations_pb2.DeleteOperationRequest(name=name))

    def wait(self, name: str, timeout_seconds: float | None) -> Flow[OperationStatus]:
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        patience = self._enduring()
        while True:
            left = WAIT_SECONDS if end is None else min(WAIT_SECONDS, max(0.0, end - time.monotonic()))
            message = operations_pb2.WaitOperationRequest(name=name)
            message.timeout.FromMicroseconds(int(left * 1e6))
            status = operation_status((yield from call("Operations.WaitOperation", message, patience)))
            if status.done or (end is not None and time.monotonic() >= end):
                return status

    def watch(self, name: str, previews: bool) -> Flow[None]:
        last: OperationStatus | None = None
        shown: tuple[int, int] | None = None
        patience = self._enduring()
        while True:
            yield Open("VideoService.WatchVideo", video_pb2.WatchVideoRequest(name=name, previews=previews))
            error = ClientError("UNAVAILABLE", f"{name}: the stream ended before the job was done")
            try:
                while (event := (yield Next())) is not None:
                    patience.succeeded()
                    status = watch_status(name, event)
                    if status.preview is not None:
                        mark = (status.attempt, status.preview.step)
                        if mark == shown:
                            status = replace(status, preview=None)
                        shown = mark
                    # A new stream begins with what the old one said last.
                    plain = replace(status, preview=None, eta_seconds=None)
                    if plain != last or status.preview is not None:
                        yield Emit(status)
                    if status.done:
                        return
                    last = plain
            except ClientError as caught:
                error = caught
            yield Sleep(patience.pause(error))

    def events(self, name: str) -> Flow[tuple[VideoEvent, ...]]:
        message = video_pb2.ListVideoEventsRequest(name=name)
        answer = yield from self._call("VideoService.ListVideoEvents", message)
        return tuple(map(video_event, answer.events))

    def replay_webhooks(self, name: str) -> Flow[int]:
        message = video_pb2.ReplayWebhooksRequest(name=name)
        return int((yield from self._call("VideoService.ReplayWebhooks", message)).count)

    def read(self, name: str, offset: int, length: int, artifact: str) -> Flow[None]:
        return files.read(name, artifact, offset, length, self._enduring())

    def download(self, name: str, path: Path | str, artifact: str, on_progress: files.Progress) -> Flow[None]:
        return files.download(name, Path(path), artifact, on_progress, self._enduring())

    # The caller and the service.

    def models(self) -> Flow[tuple[ModelInfo, ...]]:
        answer = yield from self._call("VideoService.ListModels", video_pb2.ListModelsRequest())
        return tuple(map(model_info, answer.models))

    def account(self) -> Flow[AccountInfo]:
        return account_info((yield from self._call("AccountService.GetAccount", account_pb2.GetAccountRequest())))

    def webhook_secret(self) -> Flow[str]:
        message = account_pb2.GetWebhookSecretRequest()
        return str((yield from self._call("AccountService.GetWebhookSecret", message)).secret)

    # Media.

    def upload(
        self, source: Path | bytes, filename: str, on_progress: files.Progress, resume: str
    ) -> Flow[MediaFile]:
        return files.upload(source, "source", filename, on_progress, resume, self._enduring())

    def get_media(self, name: str) -> Flow[MediaFile]:
        return media_file((yield from self._call("MediaService.GetMedia", media_pb2.GetMediaRequest(name=name))))

    def list_media(self, page_size: int, page_token: str) -> Flow[MediaPage]:
        message = media_pb2.ListMediaRequest(page_size=page_size, page_token=page_token)
        answer = yield from self._call("MediaService.ListMedia", message)
        return MediaPage(tuple(map(media_file, answer.media)), answer.next_page_token)

    def delete_media(self, name: str) -> Flow[None]:
        yield from self._call("MediaService.DeleteMedia", media_pb2.DeleteMediaRequest(name=name))

    def _upload_all(
        self, drafts: Sequence[tuple[str, Draft]], on_upload: UploadProgress, patience: Patience
    ) -> Flow[None]:
        """Each file once, however often it is named."""
        uploads = [(prefix + item.field, item) for prefix, made in drafts for item in made.uploads]
        missing = [
            Violation(field, f"{str(item.source)!r} is no file that can be read")
            for field, item in uploads
            if isinstance(item.source, Path) and not item.source.is_file()
        ]
        if missing:
            raise invalid(*missing)
        names: dict[Path | bytes, str] = {}
        for field, item in uploads:
            if item.source not in names:

                def show(have: int, total: int, field: str = field) -> None:
                    on_upload(field, have, total)

                done = yield from files.upload(item.source, field, "", show, "", patience)
                names[item.source] = done.name
            item.media.name = names[item.source]

    def _call(self, method: str, message: Any) -> Flow[Any]:
        """A call that does not bear with a service that is away."""
        return call(method, message, Patience(0.0, self.patience), CALL_SECONDS)

    def _enduring(self) -> Patience:
        return Patience(max(self.away_seconds, self.patience), self.patience)
