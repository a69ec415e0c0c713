import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.api import client_pb2 as _client_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetAccountRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Account(_message.Message):
    __slots__ = ("tenant", "key_name", "requests_per_second", "burst", "concurrent_jobs", "queued_seconds", "models", "max_priority", "concurrent_jobs_used", "queued_seconds_used", "max_queued", "default_retention", "max_retention", "max_upload_bytes", "media_retention", "media_formats", "max_media_bytes", "queued_jobs", "queued_jobs_used", "max_result_bytes", "result_bytes_used", "max_queued_gpu_seconds", "queued_gpu_seconds", "queued_gpu_seconds_used")
    class QueuedGpuSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class QueuedGpuSecondsUsedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_NAME_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_JOBS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    MAX_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_JOBS_USED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_SECONDS_USED_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_RETENTION_FIELD_NUMBER: _ClassVar[int]
    MAX_RETENTION_FIELD_NUMBER: _ClassVar[int]
    MAX_UPLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEDIA_RETENTION_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FORMATS_FIELD_NUMBER: _ClassVar[int]
    MAX_MEDIA_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUEUED_JOBS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_JOBS_USED_FIELD_NUMBER: _ClassVar[int]
    MAX_RESULT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESULT_BYTES_USED_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_GPU_SECONDS_USED_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    key_name: str
    requests_per_second: float
    burst: int
    concurrent_jobs: int
    queued_seconds: float
    models: _containers.RepeatedScalarFieldContainer[str]
    max_priority: int
    concurrent_jobs_used: int
    queued_seconds_used: float
    max_queued: int
    default_retention: _duration_pb2.Duration
    max_retention: _duration_pb2.Duration
    max_upload_bytes: int
    media_retention: _duration_pb2.Duration
    media_formats: _containers.RepeatedScalarFieldContainer[str]
    max_media_bytes: int
    queued_jobs: int
    queued_jobs_used: int
    max_result_bytes: int
    result_bytes_used: int
    max_queued_gpu_seconds: float
    queued_gpu_seconds: _containers.ScalarMap[str, float]
    queued_gpu_seconds_used: _containers.ScalarMap[str, float]
    def __init__(self, tenant: _Optional[str] = ..., key_name: _Optional[str] = ..., requests_per_second: _Optional[float] = ..., burst: _Optional[int] = ..., concurrent_jobs: _Optional[int] = ..., queued_seconds: _Optional[float] = ..., models: _Optional[_Iterable[str]] = ..., max_priority: _Optional[int] = ..., concurrent_jobs_used: _Optional[int] = ..., queued_seconds_used: _Optional[float] = ..., max_queued: _Optional[int] = ..., default_retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_upload_bytes: _Optional[int] = ..., media_retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., media_formats: _Optional[_Iterable[str]] = ..., max_media_bytes: _Optional[int] = ..., queued_jobs: _Optional[int] = ..., queued_jobs_used: _Optional[int] = ..., max_result_bytes: _Optional[int] = ..., result_bytes_used: _Optional[int] = ..., max_queued_gpu_seconds: _Optional[float] = ..., queued_gpu_seconds: _Optional[_Mapping[str, float]] = ..., queued_gpu_seconds_used: _Optional[_Mapping[str, float]] = ...) -> None: ...

class GetWebhookSecretRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetWebhookSecretResponse(_message.Message):
    __slots__ = ("secret",)
    SECRET_FIELD_NUMBER: _ClassVar[int]
    secret: str
    def __init__(self, secret: _Optional[str] = ...) -> None: ...
