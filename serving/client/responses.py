"""Decodes the API's messages into the client's data classes. Pure functions."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import grpc
from google.longrunning import operations_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from zoetrope.model.request.tasks import Violation
from zoetrope.serving.api.zoetrope.video.v1 import account_pb2, media_pb2, video_pb2
from zoetrope.serving.client.types import (
    AccountInfo,
    AdapterInfo,
    AppliedAdapter,
    ClientError,
    MediaFile,
    ModelInfo,
    OperationStatus,
    PreviewImage,
    ValidatedVideo,
    VideoEvent,
    VideoInfo,
)

T = TypeVar("T")


def from_rpc_error(error: grpc.RpcError, target: str) -> ClientError:
    """Keep the details that the service sent."""
    code, message = error.code().name, error.details() or "no details"
    status = rpc_status.from_call(error)
    if status is None:
        return ClientError(code, f"no answer from {target}: {message}" if code == "UNAVAILABLE" else message)
    return error_of(status)


def error_of(status: status_pb2.Status) -> ClientError:
    """Decode an error with its BadRequest, RetryInfo and ErrorInfo."""
    violations: list[Violation] = []
    reason, metadata, retry_seconds = "", {}, None
    bad, retry, info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(bad):
            violations += [Violation(v.field, v.description) for v in bad.field_violations]
        elif detail.Unpack(retry):
            retry_seconds = _seconds(retry.retry_delay)
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
    """Decode what get, list and wait return."""
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
    """Decode one message of WatchVideo."""
    return _status(
        name,
        event.metadata,
        event.done,
        event.error if event.HasField("error") else None,
        event.video if event.HasField("video") else None,
        event.preview if event.HasField("preview") else None,
    )


def _status(
    name: str,
    metadata: video_pb2.VideoMetadata,
    done: bool,
    error: status_pb2.Status | None,
    video: video_pb2.Video | None,
    preview: PreviewImage | None = None,
) -> OperationStatus:
    return decode(
        OperationStatus,
        metadata,
        name=name,
        done=done,
        error=None if error is None else error_of(error),
        video=None if video is None else video_info(video),
        verdicts=tuple(metadata.verdicts),
        adapters=tuple(decode(AppliedAdapter, adapter) for adapter in metadata.adapters),
        preview=preview,
    )


def video_info(video: video_pb2.Video) -> VideoInfo:
    return decode(VideoInfo, video)


def validated(answer: video_pb2.ValidateVideoResponse) -> ValidatedVideo:
    return decode(ValidatedVideo, answer)


def video_event(event: video_pb2.VideoEvent) -> VideoEvent:
    return decode(VideoEvent, event)


def media_file(media: media_pb2.MediaFile) -> MediaFile:
    return decode(MediaFile, media, ready=media.state == media_pb2.MEDIA_STATE_READY)


def account_info(account: account_pb2.Account) -> AccountInfo:
    return decode(AccountInfo, account)


def model_info(model: video_pb2.Model) -> ModelInfo:
    return decode(
        ModelInfo,
        model,
        native_sizes=tuple((size.width, size.height) for size in model.native_sizes),
        fused_adapters=tuple(decode(AdapterInfo, adapter) for adapter in model.fused_adapters),
    )


def decode(kind: type[T], message: Any, **computed: Any) -> T:
    """Make a data class of the message's fields of the same names, besides those that are ``computed``."""
    descriptors = message.DESCRIPTOR.fields_by_name
    names = [field.name for field in dataclasses.fields(kind) if field.name not in computed]  # type: ignore[arg-type]
    return kind(**{name: _value(message, descriptors[name]) for name in names}, **computed)


def _value(message: Any, field: Any) -> Any:
    """Times and durations become seconds, enums lower-case names without their prefix, absent fields None."""
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return tuple(_plain(item, field) for item in value)
    return _plain(value, field) if not field.has_presence or message.HasField(field.name) else None


def _plain(value: Any, field: Any) -> Any:
    if field.enum_type is not None:
        names = field.enum_type.values_by_number
        prefix = names[0].name.removesuffix("UNSPECIFIED")
        return names[value].name.removeprefix(prefix).lower()
    return value if field.message_type is None else _seconds(value)


def _seconds(value: Any) -> float:
    """Convert a Timestamp (since the epoch) or a Duration."""
    return float(value.seconds + value.nanos / 1e9)
