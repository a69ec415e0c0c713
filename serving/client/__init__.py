"""The client of the gRPC API: plain data classes in and out, and calls that survive the restart of a gateway.

`VideoClient` blocks; `AsyncVideoClient` has the same methods as coroutines and asynchronous iterators.
"""

from zoetrope.model.request.tasks import Violation
from zoetrope.serving.client.async_client import AsyncVideoClient
from zoetrope.serving.client.overview import EngineInfo, QueueInfo, SegmentInfo, ServiceOverview, WaitingInfo
from zoetrope.serving.client.sync_client import VideoClient
from zoetrope.serving.client.types import (
    AccountInfo,
    AdapterInfo,
    AppliedAdapter,
    ClientError,
    MediaFile,
    MediaPage,
    ModelInfo,
    OperationStatus,
    Page,
    PreviewImage,
    Source,
    Tls,
    ValidatedVideo,
    Verdict,
    VideoEvent,
    VideoInfo,
    Webhook,
)

__all__ = [
    "AccountInfo",
    "AdapterInfo",
    "AppliedAdapter",
    "AsyncVideoClient",
    "ClientError",
    "EngineInfo",
    "MediaFile",
    "MediaPage",
    "ModelInfo",
    "OperationStatus",
    "Page",
    "PreviewImage",
    "QueueInfo",
    "SegmentInfo",
    "ServiceOverview",
    "Source",
    "Tls",
    "ValidatedVideo",
    "Verdict",
    "VideoClient",
    "VideoEvent",
    "VideoInfo",
    "Violation",
    "WaitingInfo",
    "Webhook",
]
