"""The gRPC server: our services, google.longrunning.Operations, health and reflection."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from zoetrope.serving.api.zoetrope.video.v1 import (
    account_pb2_grpc,
    engines_pb2_grpc,
    media_pb2_grpc,
    video_pb2_grpc,
)
from zoetrope.serving.config.logs import describe
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.grpc.account_service import AccountService
from zoetrope.serving.gateway.grpc.auth_interceptor import Gate, Guarding
from zoetrope.serving.gateway.grpc.engine_service import EngineService
from zoetrope.serving.gateway.grpc.health_service import HealthService, Status
from zoetrope.serving.gateway.grpc.media_service import MediaService
from zoetrope.serving.gateway.grpc.operations_service import OperationsService
from zoetrope.serving.gateway.grpc.reflection_v1 import REFLECTION_V1, reflection_v1_handler
from zoetrope.serving.gateway.grpc.sockets import Sockets
from zoetrope.serving.gateway.grpc.video_service import VideoService
from zoetrope.serving.gateway.watch.liveness import Liveness
from zoetrope.serving.jobs.db.errors import StoreError

PACKAGE = "zoetrope.video.v1"
VIDEO_SERVICE = f"{PACKAGE}.VideoService"
SERVICES = (
    VIDEO_SERVICE,
    f"{PACKAGE}.MediaService",
    f"{PACKAGE}.AccountService",
    f"{PACKAGE}.EngineService",
    "google.longrunning.Operations",
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
    REFLECTION_V1,
)
MAX_MESSAGE_BYTES = 8 << 20
LOOKAHEAD_BYTES = 64 << 10
MAX_WAITING_CALLS = 50_000
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # What is sent ahead of its being asked for; no more where a client is fast. See
    # serving.gateway.grpc.request_reader.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_allowed_incoming_connections", 3_000),  # see serving.gateway.grpc.sockets for those of one client
    ("grpc.so_reuseport", 0),  # else two services on one port would share it silently
    ("grpc.max_concurrent_streams", 2_000),
    # Of calls that wait for the gateway, gRPC would drop some from 1,000 on as CANCELLED, which tells clients nothing
    # and which none repeats. What waits is bounded by the streams of a connection and the deadlines of the calls.
    ("grpc.server.max_pending_requests", MAX_WAITING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_WAITING_CALLS),
    ("grpc.keepalive_time_ms", 30_000),  # finds clients that vanished during a long watch
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # clients may ping as often
    ("grpc.max_connection_age_grace_ms", 10 * 60_000),  # for the calls of a connection that grew too old
)
SENT_SECONDS = 0.1  # for grpc to send the last answers, of which nothing tells
HEALTH_SECONDS = 0.25  # between two looks at the engines
log = logging.getLogger("zoetrope.gateway")


def grpc_server(core: Core, status: HealthService, gate: Gate | None = None) -> Any:
    """Make a grpc.aio server without a port; ``gate`` authenticates and bounds its calls."""
    # Connections move to gateways that were added; gRPC itself spreads their ends.
    age = ("grpc.max_connection_age_ms", round(core.settings.max_connection_seconds * 1_000))
    server = grpc.aio.server(options=(*OPTIONS, age))
    guarding = Guarding(server, gate or Gate(core, Sockets()))
    add_video: Any = video_pb2_grpc.add_VideoServiceServicer_to_server
    add_media: Any = media_pb2_grpc.add_MediaServiceServicer_to_server
    add_account: Any = account_pb2_grpc.add_AccountServiceServicer_to_server
    add_engines: Any = engines_pb2_grpc.add_EngineServiceServicer_to_server
    add_video(VideoService(core), guarding)
    add_media(MediaService(core), guarding)
    add_account(AccountService(core), guarding)
    add_engines(EngineService(core), guarding)
    operations_pb2_grpc.add_OperationsServicer_to_server(OperationsService(core), guarding)
    health_pb2_grpc.add_HealthServicer_to_server(status, guarding)
    reflected: Any = reflection.aio.ReflectionServicer(SERVICES)  # `enable_server_reflection` wants the server itself
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, guarding)
    guarding.add_generic_rpc_handlers([reflection_v1_handler(reflected)])
    return server


async def stop_server(server: Any, gate: Gate, port: int, seconds: float) -> None:
    """Refuse new calls, let those under way end, and end the connections before the server.

    A server that is stopped first says CANCELLED to the calls that it has not begun, which no client repeats.

    Args:
        port: at which it listens. seconds: that calls get to end.
    """
    with suppress(TimeoutError):
        await asyncio.wait_for(gate.idle.wait(), seconds)
    await asyncio.sleep(SENT_SECONDS)
    await gate.sockets.end_all(port)
    await server.stop(None)


def credentials(settings: Settings) -> Any:
    """Return the credentials of TLS, or of mutual TLS if a client CA is set; None without a certificate.

    Raises:
        OSError: a file cannot be read.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
    if settings.tls_client_ca is None:
        return grpc.ssl_server_credentials([pair])
    return grpc.ssl_server_credentials([pair], Path(settings.tls_client_ca).read_bytes(), require_client_auth=True)


async def keep_health(liveness: Liveness, status: HealthService) -> None:
    """Publish health until cancelled: the video service is SERVING while an engine is alive, the gateway always."""
    stopping = False
    while not stopping:
        try:
            alive = liveness.takes_work(await liveness.seen())
        except StoreError as error:
            log.error("the engines cannot be read:\n%s", describe(error))
            alive = False
        status.set(VIDEO_SERVICE, Status.SERVING if alive else Status.NOT_SERVING)
        stopping = await liveness.stopping_within(HEALTH_SECONDS)
    status.stop()
