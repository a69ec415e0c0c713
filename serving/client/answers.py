"""The API's answers as the client's data classes. Pure functions."""

from __future__ import annotations

from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from model.tasks import Violation
from serving.api.zoetrope.video.v1 import account_pb2, media_pb2, video_pb2
from serving.client.types import (
    AccountInfo,
    ClientError,
    MediaFile,
    ModelInfo,
    OperationStatus,
    PreviewImage,
    Verdict,
    VideoEvent,
    VideoInfo,
)


def from_rpc_error(error: grpc.RpcError, target: str) -> ClientError:
    """With the details that the service sent."""
    code, message = error.code().name, error.details() or "no details"
    status = rpc_status.from_call(error)
    if status is None:
        return ClientError(code, f"no answer from {target}: {message}" if code == "UNAVAILABLE" else message)
    return error_of(status)


def error_of(status: status_pb2.Status) -> ClientError:
    """An error with its BadRequest, RetryInfo and ErrorInfo."""
    violations: list[Violation] = []
    reason, metadata, retry_seconds = "", {}, None
    bad, retry, info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(bad):
            violations += [Violation(v.field, v.description) for v in bad.field_violations]
        elif detail.Unpack(retry):
            retry_seconds = duration(retry.retry_delay)
        elif detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
    return ClientError(
        code_pb2.Code.Name(status.code),
        status.message,
        tuple(violations),
        reason=reason,
        retry_seconds=retry_seconds,
        metadata=metadata,
    )


def operation_status(operation: operations_pb2.Operation) -> OperationStatus:
    metadata, video = video_pb2.VideoMetadata(), video_pb2.Video()
    operation.metadata.Unpack(metadata)
    return _status(
        operation.name,
        metadata,
        operation.done,
        operation.error if operation.HasField("error") else None,
        video if operation.response.Unpack(video) else None,
    )


def watch_status(name: str, event: video_pb2.WatchVideoResponse) -> OperationStatus:
    error = event.error if event.HasField("error") else None
    video = event.video if event.HasField("video") else None
    preview = PreviewImage(**_fields(event.preview)) if event.HasField("preview") else None
    return _status(name, event.metadata, event.done, error, video, preview)


def _status(
    name: str,
    metadata: video_pb2.VideoMetadata,
    done: bool,
    error: status_pb2.Status | None,
    video: video_pb2.Video | None,
    preview: PreviewImage | None = None,
) -> OperationStatus:
    def time(field: str) -> float | None:
        return seconds(getattr(metadata, field)) if metadata.HasField(field) else None

    return OperationStatus(
        name=name,
        state=video_pb2.VideoState.Name(metadata.state).removeprefix("VIDEO_STATE_").lower(),
        step=metadata.step,
        steps=metadata.steps,
        queue_position=metadata.queue_position,
        eta_seconds=metadata.eta_seconds if metadata.HasField("eta_seconds") else None,
        model=metadata.model,
        create_time=seconds(metadata.create_time),
        start_time=time("start_time"),
        end_time=time("end_time"),
        attempt=metadata.attempt,
        cancel_requested=metadata.cancel_requested,
        done=done,
        error=None if error is None else error_of(error),
        video=None if video is None else video_info(video),
        warnings=tuple(metadata.warnings),
        task=metadata.task,
        labels=dict(metadata.labels),
        priority=metadata.priority,
        deadline=time("deadline"),
        expire_time=time("expire_time"),
        verdicts=tuple(Verdict(v.check, v.outcome, v.note) for v in metadata.verdicts),
        preview=preview,
        notice=metadata.notice,
    )


def video_info(video: video_pb2.Video) -> VideoInfo:
    changed: dict[str, Any] = {"expire_time": seconds(video.expire_time), "timings": dict(video.timings)}
    changed["flow_shift"] = video.flow_shift if video.HasField("flow_shift") else None
    return VideoInfo(**{**_fields(video), **changed})


def video_event(event: video_pb2.VideoEvent) -> VideoEvent:
    return VideoEvent(**{**_fields(event), "time": seconds(event.time)})


def media_file(media: media_pb2.MediaFile) -> MediaFile:
    fields = _fields(media)
    fields["ready"] = fields.pop("state") == media_pb2.MEDIA_STATE_READY
    for field in ("create_time", "expire_time"):
        fields[field] = seconds(fields[field])
    return MediaFile(**fields)


def account_info(account: account_pb2.Account) -> AccountInfo:
    fields = _fields(account)
    for field in ("requests_per_second", "concurrent_jobs", "queued_seconds"):
        fields[field] = fields[field] if account.HasField(field) else None
    for field in ("default_retention", "max_retention", "media_retention"):
        fields[field] = duration(fields[field])
    for field in ("models", "media_formats"):
        fields[field] = tuple(fields[field])
    return AccountInfo(**fields)


def model_info(model: video_pb2.Model) -> ModelInfo:
    fields = _fields(model)
    fields["tasks"] = tuple(model.tasks)
    fields["native_sizes"] = tuple((size.width, size.height) for size in model.native_sizes)
    fields["default_flow_shift"] = model.default_flow_shift if model.HasField("default_flow_shift") else None
    names = map(video_pb2.VideoFormat.Name, model.formats)
    fields["formats"] = tuple(name.removeprefix("VIDEO_FORMAT_").lower() for name in names)
    return ModelInfo(**fields)


def seconds(time: Timestamp) -> float:
    """Since the epoch."""
    return float(time.seconds + time.nanos / 1e9)


def duration(span: Duration) -> float:
    return float(span.seconds + span.nanos / 1e9)


def _fields(message: Any) -> dict[str, Any]:
    """All fields by name, those at their default included."""
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
