import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.api import client_pb2 as _client_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListEnginesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEnginesResponse(_message.Message):
    __slots__ = ("engines", "next_page_token", "queues", "waiting")
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    engines: _containers.RepeatedCompositeFieldContainer[Engine]
    next_page_token: str
    queues: _containers.RepeatedCompositeFieldContainer[TenantQueue]
    waiting: _containers.RepeatedCompositeFieldContainer[WaitingVideo]
    def __init__(self, engines: _Optional[_Iterable[_Union[Engine, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., queues: _Optional[_Iterable[_Union[TenantQueue, _Mapping]]] = ..., waiting: _Optional[_Iterable[_Union[WaitingVideo, _Mapping]]] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("name", "model", "ranks", "state", "gangs_lost", "segments", "other_segments", "step_tokens", "predicted_step_seconds", "step_seconds", "predicted_last_step_seconds", "seen_time")
    class GangsLostEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GANGS_LOST_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    OTHER_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_LAST_STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEEN_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    ranks: int
    state: str
    gangs_lost: _containers.ScalarMap[str, int]
    segments: _containers.RepeatedCompositeFieldContainer[EngineSegment]
    other_segments: int
    step_tokens: int
    predicted_step_seconds: float
    step_seconds: float
    predicted_last_step_seconds: float
    seen_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., ranks: _Optional[int] = ..., state: _Optional[str] = ..., gangs_lost: _Optional[_Mapping[str, int]] = ..., segments: _Optional[_Iterable[_Union[EngineSegment, _Mapping]]] = ..., other_segments: _Optional[int] = ..., step_tokens: _Optional[int] = ..., predicted_step_seconds: _Optional[float] = ..., step_seconds: _Optional[float] = ..., predicted_last_step_seconds: _Optional[float] = ..., seen_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class EngineSegment(_message.Message):
    __slots__ = ("operation", "segment", "step", "steps", "tokens", "advances")
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ADVANCES_FIELD_NUMBER: _ClassVar[int]
    operation: str
    segment: int
    step: int
    steps: int
    tokens: int
    advances: bool
    def __init__(self, operation: _Optional[str] = ..., segment: _Optional[int] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., tokens: _Optional[int] = ..., advances: _Optional[bool] = ...) -> None: ...

class TenantQueue(_message.Message):
    __slots__ = ("model", "tenant", "others", "queued_jobs", "running_jobs", "gpu_seconds")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_JOBS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_JOBS_FIELD_NUMBER: _ClassVar[int]
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    tenant: str
    others: bool
    queued_jobs: int
    running_jobs: int
    gpu_seconds: float
    def __init__(self, model: _Optional[str] = ..., tenant: _Optional[str] = ..., others: _Optional[bool] = ..., queued_jobs: _Optional[int] = ..., running_jobs: _Optional[int] = ..., gpu_seconds: _Optional[float] = ...) -> None: ...

class WaitingVideo(_message.Message):
    __slots__ = ("operation", "model", "queue_position", "eta_seconds", "eta_low_seconds", "eta_high_seconds", "notice")
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ETA_LOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ETA_HIGH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    operation: str
    model: str
    queue_position: int
    eta_seconds: float
    eta_low_seconds: float
    eta_high_seconds: float
    notice: str
    def __init__(self, operation: _Optional[str] = ..., model: _Optional[str] = ..., queue_position: _Optional[int] = ..., eta_seconds: _Optional[float] = ..., eta_low_seconds: _Optional[float] = ..., eta_high_seconds: _Optional[float] = ..., notice: _Optional[str] = ...) -> None: ...
