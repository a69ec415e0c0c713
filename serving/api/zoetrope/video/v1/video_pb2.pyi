import datetime

from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VideoState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIDEO_STATE_UNSPECIFIED: _ClassVar[VideoState]
    VIDEO_STATE_QUEUED: _ClassVar[VideoState]
    VIDEO_STATE_CONDITIONING: _ClassVar[VideoState]
    VIDEO_STATE_DENOISING: _ClassVar[VideoState]
    VIDEO_STATE_DECODING: _ClassVar[VideoState]
    VIDEO_STATE_SUCCEEDED: _ClassVar[VideoState]
    VIDEO_STATE_FAILED: _ClassVar[VideoState]
    VIDEO_STATE_CANCELLED: _ClassVar[VideoState]

class VideoFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIDEO_FORMAT_UNSPECIFIED: _ClassVar[VideoFormat]
    VIDEO_FORMAT_MP4: _ClassVar[VideoFormat]
    VIDEO_FORMAT_MKV: _ClassVar[VideoFormat]

class VideoArtifact(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIDEO_ARTIFACT_UNSPECIFIED: _ClassVar[VideoArtifact]
    VIDEO_ARTIFACT_VIDEO: _ClassVar[VideoArtifact]
    VIDEO_ARTIFACT_LATENTS: _ClassVar[VideoArtifact]
VIDEO_STATE_UNSPECIFIED: VideoState
VIDEO_STATE_QUEUED: VideoState
VIDEO_STATE_CONDITIONING: VideoState
VIDEO_STATE_DENOISING: VideoState
VIDEO_STATE_DECODING: VideoState
VIDEO_STATE_SUCCEEDED: VideoState
VIDEO_STATE_FAILED: VideoState
VIDEO_STATE_CANCELLED: VideoState
VIDEO_FORMAT_UNSPECIFIED: VideoFormat
VIDEO_FORMAT_MP4: VideoFormat
VIDEO_FORMAT_MKV: VideoFormat
VIDEO_ARTIFACT_UNSPECIFIED: VideoArtifact
VIDEO_ARTIFACT_VIDEO: VideoArtifact
VIDEO_ARTIFACT_LATENTS: VideoArtifact

class TextToVideo(_message.Message):
    __slots__ = ("prompt", "negative_prompt")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative_prompt: str
    def __init__(self, prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ...) -> None: ...

class CreateVideoRequest(_message.Message):
    __slots__ = ("request_id", "model", "text_to_video", "size", "ratio", "duration_seconds", "frames", "fps", "steps", "guidance", "seed", "format", "keep_latents")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_TO_VIDEO_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    KEEP_LATENTS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    text_to_video: TextToVideo
    size: str
    ratio: str
    duration_seconds: float
    frames: int
    fps: int
    steps: int
    guidance: float
    seed: int
    format: VideoFormat
    keep_latents: bool
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., text_to_video: _Optional[_Union[TextToVideo, _Mapping]] = ..., size: _Optional[str] = ..., ratio: _Optional[str] = ..., duration_seconds: _Optional[float] = ..., frames: _Optional[int] = ..., fps: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., seed: _Optional[int] = ..., format: _Optional[_Union[VideoFormat, str]] = ..., keep_latents: _Optional[bool] = ...) -> None: ...

class VideoMetadata(_message.Message):
    __slots__ = ("state", "step", "steps", "queue_position", "eta_seconds", "model", "create_time", "start_time", "end_time", "attempt", "cancel_requested", "warnings")
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    state: VideoState
    step: int
    steps: int
    queue_position: int
    eta_seconds: float
    model: str
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    attempt: int
    cancel_requested: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, state: _Optional[_Union[VideoState, str]] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., queue_position: _Optional[int] = ..., eta_seconds: _Optional[float] = ..., model: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., cancel_requested: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class Video(_message.Message):
    __slots__ = ("name", "width", "height", "native_width", "native_height", "frames", "fps", "size_bytes", "sha256", "mime_type", "seed", "steps", "guidance", "model")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    NATIVE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    NATIVE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
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
    def __init__(self, name: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., native_width: _Optional[int] = ..., native_height: _Optional[int] = ..., frames: _Optional[int] = ..., fps: _Optional[int] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., mime_type: _Optional[str] = ..., seed: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., model: _Optional[str] = ...) -> None: ...

class WatchVideoRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchVideoResponse(_message.Message):
    __slots__ = ("metadata", "done", "error", "video")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    metadata: VideoMetadata
    done: bool
    error: _status_pb2.Status
    video: Video
    def __init__(self, metadata: _Optional[_Union[VideoMetadata, _Mapping]] = ..., done: _Optional[bool] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., video: _Optional[_Union[Video, _Mapping]] = ...) -> None: ...

class DownloadVideoRequest(_message.Message):
    __slots__ = ("name", "artifact", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    artifact: VideoArtifact
    offset: int
    def __init__(self, name: _Optional[str] = ..., artifact: _Optional[_Union[VideoArtifact, str]] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadVideoResponse(_message.Message):
    __slots__ = ("offset", "data", "total_bytes", "sha256")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    total_bytes: int
    sha256: str
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., total_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "ready", "tasks", "audio", "native_sizes", "size_multiple", "fps", "max_frames", "max_duration_seconds", "default_steps", "default_guidance", "default_frames", "max_prompt_chars", "max_negative_prompt_chars", "max_steps", "max_guidance", "max_fps", "max_seed")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    NATIVE_SIZES_FIELD_NUMBER: _ClassVar[int]
    SIZE_MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_STEPS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEGATIVE_PROMPT_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_FPS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEED_FIELD_NUMBER: _ClassVar[int]
    name: str
    ready: bool
    tasks: _containers.RepeatedScalarFieldContainer[str]
    audio: bool
    native_sizes: _containers.RepeatedCompositeFieldContainer[Size]
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
    def __init__(self, name: _Optional[str] = ..., ready: _Optional[bool] = ..., tasks: _Optional[_Iterable[str]] = ..., audio: _Optional[bool] = ..., native_sizes: _Optional[_Iterable[_Union[Size, _Mapping]]] = ..., size_multiple: _Optional[int] = ..., fps: _Optional[int] = ..., max_frames: _Optional[int] = ..., max_duration_seconds: _Optional[float] = ..., default_steps: _Optional[int] = ..., default_guidance: _Optional[float] = ..., default_frames: _Optional[int] = ..., max_prompt_chars: _Optional[int] = ..., max_negative_prompt_chars: _Optional[int] = ..., max_steps: _Optional[int] = ..., max_guidance: _Optional[float] = ..., max_fps: _Optional[int] = ..., max_seed: _Optional[int] = ...) -> None: ...
