"""How the client reaches a service: channel options, TLS and the API key."""

from __future__ import annotations

import os
from typing import Any

import grpc

from zoetrope.serving.client.types import ClientError, Tls

API_KEY = "ZOETROPE_API_KEY"
OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.keepalive_time_ms", 20_000),  # a stream to a machine that is gone ends
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def read_certificates(tls: Tls | None) -> tuple[bytes | None, ...] | None:
    """Read the root certificates, private key and certificate; None for a connection without TLS.

    Raises:
        ClientError: INVALID_ARGUMENT, a file cannot be read, or one of a pair is missing.
    """
    if tls is None:
        return None
    if (tls.certificate is None) != (tls.key is None):
        raise ClientError("INVALID_ARGUMENT", "tls: a certificate and its key belong together, give both")
    try:
        return tuple(None if path is None else path.read_bytes() for path in (tls.root, tls.key, tls.certificate))
    except OSError as error:
        raise ClientError("INVALID_ARGUMENT", f"tls: {error.filename}: {error.strerror}") from None


def open_channel(target: str, certificates: tuple[bytes | None, ...] | None) -> Any:
    """Open a channel of the running event loop; it connects with the first call."""
    if certificates is None:
        return grpc.aio.insecure_channel(target, options=OPTIONS)
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(*certificates), options=OPTIONS)


def call_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """Return the key as every call carries it; None takes it from the environment, "" sends none.

    Raises:
        ClientError: INVALID_ARGUMENT, it cannot be a key. The message does not show it.
    """
    key = os.environ.get(API_KEY, "") if api_key is None else api_key
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ClientError("INVALID_ARGUMENT", "api_key: has characters that no key has")
    return (("authorization", f"Bearer {key}"),) if key else ()
