import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.api import client_pb2 as _client_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import resource_pb2 as _resource_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2 as _media_pb2
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
    VIDEO_FORMAT_PNG: _ClassVar[VideoFormat]
    VIDEO_FORMAT_WEBP: _ClassVar[VideoFormat]
    VIDEO_FORMAT_JPG: _ClassVar[VideoFormat]

class Fit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIT_UNSPECIFIED: _ClassVar[Fit]
    FIT_COVER: _ClassVar[Fit]
    FIT_CONTAIN: _ClassVar[Fit]

class Quality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUALITY_UNSPECIFIED: _ClassVar[Quality]
    QUALITY_EXACT: _ClassVar[Quality]
    QUALITY_BALANCED: _ClassVar[Quality]
    QUALITY_FAST: _ClassVar[Quality]

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
VIDEO_FORMAT_PNG: VideoFormat
VIDEO_FORMAT_WEBP: VideoFormat
VIDEO_FORMAT_JPG: VideoFormat
FIT_UNSPECIFIED: Fit
FIT_COVER: Fit
FIT_CONTAIN: Fit
QUALITY_UNSPECIFIED: Quality
QUALITY_EXACT: Quality
QUALITY_BALANCED: Quality
QUALITY_FAST: Quality
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

class ImageToVideo(_message.Message):
    __slots__ = ("prompt", "negative_prompt", "image", "clip", "loop", "last_frame")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    LOOP_FIELD_NUMBER: _ClassVar[int]
    LAST_FRAME_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative_prompt: str
    image: _media_pb2.Media
    clip: _media_pb2.Media
    loop: bool
    last_frame: _media_pb2.Media
    def __init__(self, prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., image: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., clip: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., loop: _Optional[bool] = ..., last_frame: _Optional[_Union[_media_pb2.Media, _Mapping]] = ...) -> None: ...

class FirstLastFrame(_message.Message):
    __slots__ = ("prompt", "negative_prompt", "first_frame", "last_frame")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FRAME_FIELD_NUMBER: _ClassVar[int]
    LAST_FRAME_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative_prompt: str
    first_frame: _media_pb2.Media
    last_frame: _media_pb2.Media
    def __init__(self, prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., first_frame: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., last_frame: _Optional[_Union[_media_pb2.Media, _Mapping]] = ...) -> None: ...

class GridToVideo(_message.Message):
    __slots__ = ("prompt", "negative_prompt", "panels")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    PANELS_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative_prompt: str
    panels: _containers.RepeatedCompositeFieldContainer[_media_pb2.Media]
    def __init__(self, prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., panels: _Optional[_Iterable[_Union[_media_pb2.Media, _Mapping]]] = ...) -> None: ...

class ReferenceToVideo(_message.Message):
    __slots__ = ("prompt", "negative_prompt", "references", "first_frame")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    FIRST_FRAME_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative_prompt: str
    references: _containers.RepeatedCompositeFieldContainer[_media_pb2.Media]
    first_frame: _media_pb2.Media
    def __init__(self, prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., references: _Optional[_Iterable[_Union[_media_pb2.Media, _Mapping]]] = ..., first_frame: _Optional[_Union[_media_pb2.Media, _Mapping]] = ...) -> None: ...

class EditVideo(_message.Message):
    __slots__ = ("prompt", "negative_prompt", "video", "references", "keep_audio")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    KEEP_AUDIO_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative_prompt: str
    video: _media_pb2.Media
    references: _containers.RepeatedCompositeFieldContainer[_media_pb2.Media]
    keep_audio: bool
    def __init__(self, prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., video: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., references: _Optional[_Iterable[_Union[_media_pb2.Media, _Mapping]]] = ..., keep_audio: _Optional[bool] = ...) -> None: ...

class Webhook(_message.Message):
    __slots__ = ("url", "events")
    URL_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    url: str
    events: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, url: _Optional[str] = ..., events: _Optional[_Iterable[str]] = ...) -> None: ...

class Lora(_message.Message):
    __slots__ = ("name", "strength", "strength_low")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_LOW_FIELD_NUMBER: _ClassVar[int]
    name: str
    strength: float
    strength_low: float
    def __init__(self, name: _Optional[str] = ..., strength: _Optional[float] = ..., strength_low: _Optional[float] = ...) -> None: ...

class CreateVideoRequest(_message.Message):
    __slots__ = ("request_id", "model", "text_to_video", "image_to_video", "first_last_frame", "grid_to_video", "reference_to_video", "edit_video", "size", "ratio", "duration_seconds", "frames", "fps", "steps", "guidance", "seed", "format", "keep_latents", "guidance_low", "audio", "generate_audio", "labels", "priority", "deadline", "retention", "webhook", "fit", "flow_shift", "loras", "sampler", "quality", "guidance_start", "guidance_end")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_TO_VIDEO_FIELD_NUMBER: _ClassVar[int]
    IMAGE_TO_VIDEO_FIELD_NUMBER: _ClassVar[int]
    FIRST_LAST_FRAME_FIELD_NUMBER: _ClassVar[int]
    GRID_TO_VIDEO_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_TO_VIDEO_FIELD_NUMBER: _ClassVar[int]
    EDIT_VIDEO_FIELD_NUMBER: _ClassVar[int]
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
    GUIDANCE_LOW_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    GENERATE_AUDIO_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    FLOW_SHIFT_FIELD_NUMBER: _ClassVar[int]
    LORAS_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_START_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_END_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    text_to_video: TextToVideo
    image_to_video: ImageToVideo
    first_last_frame: FirstLastFrame
    grid_to_video: GridToVideo
    reference_to_video: ReferenceToVideo
    edit_video: EditVideo
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
    guidance_low: float
    audio: _media_pb2.Media
    generate_audio: bool
    labels: _containers.ScalarMap[str, str]
    priority: int
    deadline: _timestamp_pb2.Timestamp
    retention: _duration_pb2.Duration
    webhook: Webhook
    fit: Fit
    flow_shift: float
    loras: _containers.RepeatedCompositeFieldContainer[Lora]
    sampler: str
    quality: Quality
    guidance_start: float
    guidance_end: float
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., text_to_video: _Optional[_Union[TextToVideo, _Mapping]] = ..., image_to_video: _Optional[_Union[ImageToVideo, _Mapping]] = ..., first_last_frame: _Optional[_Union[FirstLastFrame, _Mapping]] = ..., grid_to_video: _Optional[_Union[GridToVideo, _Mapping]] = ..., reference_to_video: _Optional[_Union[ReferenceToVideo, _Mapping]] = ..., edit_video: _Optional[_Union[EditVideo, _Mapping]] = ..., size: _Optional[str] = ..., ratio: _Optional[str] = ..., duration_seconds: _Optional[float] = ..., frames: _Optional[int] = ..., fps: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., seed: _Optional[int] = ..., format: _Optional[_Union[VideoFormat, str]] = ..., keep_latents: _Optional[bool] = ..., guidance_low: _Optional[float] = ..., audio: _Optional[_Union[_media_pb2.Media, _Mapping]] = ..., generate_audio: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ..., priority: _Optional[int] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., webhook: _Optional[_Union[Webhook, _Mapping]] = ..., fit: _Optional[_Union[Fit, str]] = ..., flow_shift: _Optional[float] = ..., loras: _Optional[_Iterable[_Union[Lora, _Mapping]]] = ..., sampler: _Optional[str] = ..., quality: _Optional[_Union[Quality, str]] = ..., guidance_start: _Optional[float] = ..., guidance_end: _Optional[float] = ...) -> None: ...

class BatchCreateVideosRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[CreateVideoRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[CreateVideoRequest, _Mapping]]] = ...) -> None: ...

class BatchCreateVideosResponse(_message.Message):
    __slots__ = ("operations",)
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[_operations_pb2.Operation]
    def __init__(self, operations: _Optional[_Iterable[_Union[_operations_pb2.Operation, _Mapping]]] = ...) -> None: ...

class GetVideoRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ExtendVideoRequest(_message.Message):
    __slots__ = ("name", "request_id", "prompt", "negative_prompt", "duration_seconds", "frames", "steps", "guidance", "seed", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    prompt: str
    negative_prompt: str
    duration_seconds: float
    frames: int
    steps: int
    guidance: float
    seed: int
    labels: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ..., prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., duration_seconds: _Optional[float] = ..., frames: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., seed: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class UpdateVideoRequest(_message.Message):
    __slots__ = ("name", "changes", "update_mask")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    name: str
    changes: VideoChanges
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, name: _Optional[str] = ..., changes: _Optional[_Union[VideoChanges, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class VideoChanges(_message.Message):
    __slots__ = ("labels", "priority", "expire_time")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.ScalarMap[str, str]
    priority: int
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, labels: _Optional[_Mapping[str, str]] = ..., priority: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListVideoEventsRequest(_message.Message):
    __slots__ = ("name", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListVideoEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[VideoEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[VideoEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class VideoEvent(_message.Message):
    __slots__ = ("time", "from_state", "to_state", "actor", "attempt", "note")
    TIME_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    from_state: str
    to_state: str
    actor: str
    attempt: int
    note: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., from_state: _Optional[str] = ..., to_state: _Optional[str] = ..., actor: _Optional[str] = ..., attempt: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class ReplayWebhooksRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ReplayWebhooksResponse(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class VideoMetadata(_message.Message):
    __slots__ = ("state", "step", "steps", "queue_position", "eta_seconds", "model", "create_time", "start_time", "end_time", "attempt", "cancel_requested", "warnings", "task", "labels", "priority", "deadline", "expire_time", "verdicts", "notice", "prompt", "price_gpu_seconds", "used_gpu_seconds", "estimated_cost", "eta_low_seconds", "eta_high_seconds", "weights", "adapters")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
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
    TASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PRICE_GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    USED_GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_COST_FIELD_NUMBER: _ClassVar[int]
    ETA_LOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ETA_HIGH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
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
    task: str
    labels: _containers.ScalarMap[str, str]
    priority: int
    deadline: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    notice: str
    prompt: str
    price_gpu_seconds: float
    used_gpu_seconds: float
    estimated_cost: float
    eta_low_seconds: float
    eta_high_seconds: float
    weights: str
    adapters: _containers.RepeatedCompositeFieldContainer[AppliedAdapter]
    def __init__(self, state: _Optional[_Union[VideoState, str]] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., queue_position: _Optional[int] = ..., eta_seconds: _Optional[float] = ..., model: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., cancel_requested: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ..., task: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., priority: _Optional[int] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., notice: _Optional[str] = ..., prompt: _Optional[str] = ..., price_gpu_seconds: _Optional[float] = ..., used_gpu_seconds: _Optional[float] = ..., estimated_cost: _Optional[float] = ..., eta_low_seconds: _Optional[float] = ..., eta_high_seconds: _Optional[float] = ..., weights: _Optional[str] = ..., adapters: _Optional[_Iterable[_Union[AppliedAdapter, _Mapping]]] = ...) -> None: ...

class AppliedAdapter(_message.Message):
    __slots__ = ("name", "sha256", "strength", "strength_low")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_LOW_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    strength: float
    strength_low: float
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., strength: _Optional[float] = ..., strength_low: _Optional[float] = ...) -> None: ...

class ValidateVideoRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: CreateVideoRequest
    def __init__(self, request: _Optional[_Union[CreateVideoRequest, _Mapping]] = ...) -> None: ...

class ValidateVideoResponse(_message.Message):
    __slots__ = ("model", "task", "width", "height", "native_width", "native_height", "frames", "fps", "segments", "steps", "computed_steps", "warnings", "price_gpu_seconds", "price_by_stage", "measured", "estimated_cost", "estimated_cost_per_second", "eta_seconds", "eta_low_seconds", "eta_high_seconds")
    class PriceByStageEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    NATIVE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    NATIVE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_STEPS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PRICE_GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PRICE_BY_STAGE_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_COST_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_COST_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ETA_LOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ETA_HIGH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    task: str
    width: int
    height: int
    native_width: int
    native_height: int
    frames: int
    fps: int
    segments: int
    steps: int
    computed_steps: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    price_gpu_seconds: float
    price_by_stage: _containers.ScalarMap[str, float]
    measured: bool
    estimated_cost: float
    estimated_cost_per_second: float
    eta_seconds: float
    eta_low_seconds: float
    eta_high_seconds: float
    def __init__(self, model: _Optional[str] = ..., task: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., native_width: _Optional[int] = ..., native_height: _Optional[int] = ..., frames: _Optional[int] = ..., fps: _Optional[int] = ..., segments: _Optional[int] = ..., steps: _Optional[int] = ..., computed_steps: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., price_gpu_seconds: _Optional[float] = ..., price_by_stage: _Optional[_Mapping[str, float]] = ..., measured: _Optional[bool] = ..., estimated_cost: _Optional[float] = ..., estimated_cost_per_second: _Optional[float] = ..., eta_seconds: _Optional[float] = ..., eta_low_seconds: _Optional[float] = ..., eta_high_seconds: _Optional[float] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("check", "outcome", "note")
    CHECK_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    check: str
    outcome: str
    note: str
    def __init__(self, check: _Optional[str] = ..., outcome: _Optional[str] = ..., note: _Optional[str] = ...) -> None: ...

class Video(_message.Message):
    __slots__ = ("name", "width", "height", "native_width", "native_height", "frames", "fps", "size_bytes", "sha256", "mime_type", "seed", "steps", "guidance", "model", "task", "expire_time", "uri", "timings", "flow_shift")
    class TimingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
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
    TASK_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FLOW_SHIFT_FIELD_NUMBER: _ClassVar[int]
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
    task: str
    expire_time: _timestamp_pb2.Timestamp
    uri: str
    timings: _containers.ScalarMap[str, float]
    flow_shift: float
    def __init__(self, name: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., native_width: _Optional[int] = ..., native_height: _Optional[int] = ..., frames: _Optional[int] = ..., fps: _Optional[int] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., mime_type: _Optional[str] = ..., seed: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., model: _Optional[str] = ..., task: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., uri: _Optional[str] = ..., timings: _Optional[_Mapping[str, float]] = ..., flow_shift: _Optional[float] = ...) -> None: ...

class WatchVideoRequest(_message.Message):
    __slots__ = ("name", "previews")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    name: str
    previews: bool
    def __init__(self, name: _Optional[str] = ..., previews: _Optional[bool] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("data", "mime_type", "width", "height", "step")
    DATA_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    mime_type: str
    width: int
    height: int
    step: int
    def __init__(self, data: _Optional[bytes] = ..., mime_type: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class WatchVideoResponse(_message.Message):
    __slots__ = ("metadata", "done", "error", "video", "preview")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    metadata: VideoMetadata
    done: bool
    error: _status_pb2.Status
    video: Video
    preview: Preview
    def __init__(self, metadata: _Optional[_Union[VideoMetadata, _Mapping]] = ..., done: _Optional[bool] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., video: _Optional[_Union[Video, _Mapping]] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ...) -> None: ...

class DownloadVideoRequest(_message.Message):
    __slots__ = ("name", "artifact", "offset", "length")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    artifact: VideoArtifact
    offset: int
    length: int
    def __init__(self, name: _Optional[str] = ..., artifact: _Optional[_Union[VideoArtifact, str]] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class FusedAdapter(_message.Message):
    __slots__ = ("name", "sha256", "strength", "expert")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    strength: float
    expert: str
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., strength: _Optional[float] = ..., expert: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "ready", "tasks", "audio", "native_sizes", "size_multiple", "fps", "max_frames", "max_duration_seconds", "default_steps", "default_guidance", "default_frames", "max_prompt_chars", "max_negative_prompt_chars", "max_steps", "max_guidance", "max_fps", "max_seed", "default_size", "default_negative_prompt", "default_flow_shift", "flow_shift_note", "formats", "aliases", "quantize", "adapters", "fused_adapters", "profile")
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
    DEFAULT_SIZE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FLOW_SHIFT_FIELD_NUMBER: _ClassVar[int]
    FLOW_SHIFT_NOTE_FIELD_NUMBER: _ClassVar[int]
    FORMATS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    QUANTIZE_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    FUSED_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
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
    default_size: str
    default_negative_prompt: str
    default_flow_shift: float
    flow_shift_note: str
    formats: _containers.RepeatedScalarFieldContainer[VideoFormat]
    aliases: _containers.RepeatedScalarFieldContainer[str]
    quantize: str
    adapters: _containers.RepeatedScalarFieldContainer[str]
    fused_adapters: _containers.RepeatedCompositeFieldContainer[FusedAdapter]
    profile: str
    def __init__(self, name: _Optional[str] = ..., ready: _Optional[bool] = ..., tasks: _Optional[_Iterable[str]] = ..., audio: _Optional[bool] = ..., native_sizes: _Optional[_Iterable[_Union[Size, _Mapping]]] = ..., size_multiple: _Optional[int] = ..., fps: _Optional[int] = ..., max_frames: _Optional[int] = ..., max_duration_seconds: _Optional[float] = ..., default_steps: _Optional[int] = ..., default_guidance: _Optional[float] = ..., default_frames: _Optional[int] = ..., max_prompt_chars: _Optional[int] = ..., max_negative_prompt_chars: _Optional[int] = ..., max_steps: _Optional[int] = ..., max_guidance: _Optional[float] = ..., max_fps: _Optional[int] = ..., max_seed: _Optional[int] = ..., default_size: _Optional[str] = ..., default_negative_prompt: _Optional[str] = ..., default_flow_shift: _Optional[float] = ..., flow_shift_note: _Optional[str] = ..., formats: _Optional[_Iterable[_Union[VideoFormat, str]]] = ..., aliases: _Optional[_Iterable[str]] = ..., quantize: _Optional[str] = ..., adapters: _Optional[_Iterable[str]] = ..., fused_adapters: _Optional[_Iterable[_Union[FusedAdapter, _Mapping]]] = ..., profile: _Optional[str] = ...) -> None: ...
