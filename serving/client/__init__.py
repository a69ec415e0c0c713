"""The client of the gRPC API: plain data classes in and out, and calls that outlive a gateway's restart.

`VideoClient` blocks; `AsyncVideoClient` has the same methods as coroutines and asynchronous iterators.
"""

from model.tasks import Violation
from serving.client.aio import AsyncVideoClient
from serving.client.sync import VideoClient
from serving.client.types import (
    AccountInfo,
    ClientError,
    MediaFile,
    MediaPage,
    ModelInfo,
    OperationStatus,
    Page,
    PreviewImage,
    Source,
    Tls,
    Verdict,
    VideoEvent,
    VideoInfo,
    Webhook,
)

__all__ = [
    "AccountInfo",
    "AsyncVideoClient",
    "ClientError",
    "MediaFile",
    "MediaPage",
    "ModelInfo",
    "OperationStatus",
    "Page",
    "PreviewImage",
    "Source",
    "Tls",
    "Verdict",
    "VideoClient",
    "VideoEvent",
    "VideoInfo",
    "Violation",
    "Webhook",
]
