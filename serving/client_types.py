"""What the client takes and gives: plain data classes for the API's messages, and its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from model.tasks import Violation
from serving.api.zoetrope.video.v1 import video_pb2

CONTAINERS = {"mp4": video_pb2.VIDEO_FORMAT_MP4, "mkv": video_pb2.VIDEO_FORMAT_MKV}
PLAIN_FIELDS = {field.name for field in video_pb2.CreateVideoRequest.DESCRIPTOR.fields} - {"text_to_video", "format"}


class ClientError(Exception):
    """The service refused, failed or did not answer. `str` is one line."""

    def __init__(self, code: str, message: str, violations: tuple[Violation, ...] = ()) -> None:
        """
        Args:
            code: a google.rpc.Code name.
            violations: the fields at fault, as the proto names them.
        """
        super().__init__(" ".join(message.split()))
        self.code = code
        self.message = str(self)
        self.violations = violations


@dataclass(frozen=True)
class VideoInfo:
    """A finished video."""

    name: str
    width: int
    height: int
    native_width: int
    native_height: int
    frames: int
    fps: int
    size_bytes: int
    sha256: str
    mime_type: str
    seed: int
    steps: int
    guidance: float
    model: str


@dataclass(frozen=True)
class OperationStatus:
    """A job, as get, list, wait and watch give it. Times are seconds since the epoch."""

    name: str
    state: str  # queued, conditioning, denoising, decoding, succeeded, failed or cancelled
    step: int
    steps: int
    queue_position: int
    eta_seconds: float | None
    model: str
    create_time: float
    start_time: float | None
    end_time: float | None
    attempt: int
    cancel_requested: bool
    done: bool
    error: ClientError | None  # why a job that is done made no video
    video: VideoInfo | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """Some operations, newest first; an empty token says that there are no more."""

    operations: tuple[OperationStatus, ...]
    next_page_token: str


@dataclass(frozen=True)
class ModelInfo:
    """A served model and its limits; see the proto."""

    name: str
    ready: bool
    tasks: tuple[str, ...]
    audio: bool
    native_sizes: tuple[tuple[int, int], ...]
    size_multiple: int
    fps: int
    max_frames: int
    max_duration_seconds: float
    default_steps: int
    default_guidance: float
    default_frames: int
    max_prompt_chars: int
    max_negative_prompt_chars: int
    max_steps: int
    max_guidance: float
    max_fps: int
    max_seed: int


def create_request(fields: Mapping[str, Any]) -> video_pb2.CreateVideoRequest:
    """The message for the fields of a model.tasks.VideoRequest (see VideoClient.create); None means not set.

    Raises:
        ClientError: INVALID_ARGUMENT, for names that are not known and values that the message cannot hold.
        All other limits are the service's to check.
    """
    message, bad = video_pb2.CreateVideoRequest(), []
    given = {**fields, **(fields.get("task") or {})}
    given.pop("task", None)
    if given.pop("kind", "text_to_video") != "text_to_video":
        bad.append(Violation("task", f"{fields['task']['kind']!r} is not known, give text_to_video"))
    container = given.pop("container", None)
    if container in CONTAINERS:
        message.format = CONTAINERS[container]
    elif container is not None:
        bad.append(Violation("format", f"{container!r} is not one of {', '.join(CONTAINERS)}"))
    for field, value in given.items():
        if field in ("prompt", "negative_prompt"):
            target: Any = message.text_to_video
            target.SetInParent()
        elif field in PLAIN_FIELDS:
            target = message
        else:
            bad.append(Violation(field, "is not a known field"))
            continue
        try:
            if value is not None:
                setattr(target, field, value)
        except UnicodeEncodeError:
            bad.append(Violation(field, "holds bytes that are not UTF-8"))
        except (TypeError, ValueError):  # of another type, or beyond 32 or 64 bits
            bad.append(Violation(field, f"{str(value)[:80]!r} is not a possible value"))
    if bad:
        raise ClientError("INVALID_ARGUMENT", "; ".join(f"{v.field}: {v.description}" for v in bad), tuple(bad))
    return message


def from_rpc_error(error: grpc.RpcError, target: str) -> ClientError:
    """With the field violations that the service sent."""
    code, message = error.code().name, error.details() or "no details"
    status = rpc_status.from_call(error)
    if status is None and code == "UNAVAILABLE":
        return ClientError(code, f"no answer from {target}: {message}")
    return ClientError(code, message, () if status is None else violations_of(status))


def violations_of(status: status_pb2.Status) -> tuple[Violation, ...]:
    found: list[Violation] = []
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [Violation(v.field, v.description) for v in bad.field_violations]
    return tuple(found)


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
    return _status(name, event.metadata, event.done, error, event.video if event.HasField("video") else None)


def _status(
    name: str,
    metadata: video_pb2.VideoMetadata,
    done: bool,
    error: status_pb2.Status | None,
    video: video_pb2.Video | None,
) -> OperationStatus:
    return OperationStatus(
        name=name,
        state=video_pb2.VideoState.Name(metadata.state).removeprefix("VIDEO_STATE_").lower(),
        step=metadata.step,
        steps=metadata.steps,
        queue_position=metadata.queue_position,
        eta_seconds=metadata.eta_seconds if metadata.HasField("eta_seconds") else None,
        model=metadata.model,
        create_time=_seconds(metadata.create_time),
        start_time=_seconds(metadata.start_time) if metadata.HasField("start_time") else None,
        end_time=_seconds(metadata.end_time) if metadata.HasField("end_time") else None,
        attempt=metadata.attempt,
        cancel_requested=metadata.cancel_requested,
        done=done,
        error=None if error is None else ClientError(code_pb2.Code.Name(error.code), error.message),
        video=None if video is None else VideoInfo(**_fields(video)),
        warnings=tuple(metadata.warnings),
    )


def model_info(model: video_pb2.Model) -> ModelInfo:
    fields = _fields(model)
    fields["tasks"] = tuple(model.tasks)
    fields["native_sizes"] = tuple((size.width, size.height) for size in model.native_sizes)
    return ModelInfo(**fields)


def _fields(message: Any) -> dict[str, Any]:
    """All fields by name, those at their default included."""
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}


def _seconds(time: Timestamp) -> float:
    return float(time.seconds + time.nanos / 1e9)
