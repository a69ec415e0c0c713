"""How the client reaches a service: channel options, the service config with its retries, TLS and the API key."""

from __future__ import annotations

import json
import os
from typing import Any

import grpc
from google.longrunning import operations_pb2_grpc

from serving.api.zoetrope.video.v1 import account_pb2_grpc, media_pb2_grpc, video_pb2_grpc
from serving.client.types import ClientError, Tls

API_KEY = "ZOETROPE_API_KEY"
PACKAGE = "zoetrope.video.v1"
# Calls that may be repeated when their answer was lost: a create carries a request id, the others change nothing, or
# the same thing again. A DeleteVideo that is repeated would find nothing, a CreateMedia would announce another file.
REPEATABLE = {
    f"{PACKAGE}.VideoService": (
        "CreateVideo",
        "BatchCreateVideos",
        "ExtendVideo",
        "UpdateVideo",
        "ListVideoEvents",
        "ListModels",
    ),
    f"{PACKAGE}.MediaService": ("GetMedia", "ListMedia"),
    f"{PACKAGE}.AccountService": ("GetAccount", "GetWebhookSecret"),
    "google.longrunning.Operations": ("GetOperation", "ListOperations", "WaitOperation", "CancelOperation"),
}
RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": name, "method": method} for name, methods in REPEATABLE.items() for method in methods],
            "retryPolicy": RETRIES,
        }
    ]
}
OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.keepalive_time_ms", 20_000),  # a stream to a machine that is gone ends
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def credentials(tls: Tls | None) -> Any:
    """None for a connection without TLS.

    Raises:
        ClientError: INVALID_ARGUMENT, a file cannot be read, or one of a pair is missing.
    """
    if tls is None:
        return None
    if (tls.certificate is None) != (tls.key is None):
        raise ClientError("INVALID_ARGUMENT", "tls: a certificate and its key belong together, give both")
    try:
        root, key, certificate = (
            None if path is None else path.read_bytes() for path in (tls.root, tls.key, tls.certificate)
        )
    except OSError as error:
        raise ClientError("INVALID_ARGUMENT", f"tls: {error.filename}: {error.strerror}") from None
    return grpc.ssl_channel_credentials(root, key, certificate)


def call_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """The key as every call carries it; None takes it from the environment, "" is none.

    Raises:
        ClientError: INVALID_ARGUMENT, it cannot be a key. The message does not tell it.
    """
    key = os.environ.get(API_KEY, "") if api_key is None else api_key
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ClientError("INVALID_ARGUMENT", "api_key: has characters that no key has")
    return (("authorization", f"Bearer {key}"),) if key else ()


class Stubs:
    """The service's methods by name, such as ``VideoService.CreateVideo``."""

    def __init__(self, channel: Any) -> None:
        """``channel``: of grpc or of grpc.aio."""
        self._stubs: dict[str, Any] = {
            "VideoService": video_pb2_grpc.VideoServiceStub(channel),  # type: ignore[no-untyped-call]
            "MediaService": media_pb2_grpc.MediaServiceStub(channel),  # type: ignore[no-untyped-call]
            "AccountService": account_pb2_grpc.AccountServiceStub(channel),  # type: ignore[no-untyped-call]
            "Operations": operations_pb2_grpc.OperationsStub(channel),
        }

    def method(self, name: str) -> Any:
        service, _, method = name.partition(".")
        return getattr(self._stubs[service], method)
