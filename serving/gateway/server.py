"""The gRPC server: our services, google.longrunning.Operations, health and reflection."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from google.longrunning import operations_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving.api.zoetrope.video.v1 import video_pb2_grpc
from serving.artifacts import ArtifactStore
from serving.gateway.errors import ErrorInterceptor, describe
from serving.gateway.intake import Intake
from serving.gateway.liveness import Liveness
from serving.gateway.operations_service import OperationsService
from serving.gateway.video_service import VideoService
from serving.jobs.store import StoreError

VIDEO_SERVICE = "zoetrope.video.v1.VideoService"
SERVICES = (VIDEO_SERVICE, "google.longrunning.Operations", health.SERVICE_NAME, reflection.SERVICE_NAME)
MAX_MESSAGE_BYTES = 8 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # else two services on one port would share it silently
    ("grpc.keepalive_time_ms", 30_000),  # finds clients that vanished during a long watch
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # clients may ping as often
)
HEALTH_SECONDS = 0.25  # between two looks at the engines
log = logging.getLogger("zoetrope.gateway")


def grpc_server(intake: Intake, artifacts: ArtifactStore, liveness: Liveness, status: health.aio.HealthServicer) -> Any:
    """A grpc.aio server with no port yet."""
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=OPTIONS)
    videos = VideoService(intake, artifacts, liveness)
    video_pb2_grpc.add_VideoServiceServicer_to_server(videos, server)  # type: ignore[no-untyped-call]
    operations_pb2_grpc.add_OperationsServicer_to_server(OperationsService(intake.store, artifacts, liveness), server)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection(SERVICES, server)
    return server


async def keep_health(liveness: Liveness, status: health.aio.HealthServicer) -> None:
    """Until the gateway stops: the video service is SERVING while an engine is alive, the gateway itself always."""
    stopping = False
    while not stopping:
        try:
            alive = bool(liveness.engines())
        except StoreError as error:
            log.error("the engines cannot be read:\n%s", describe(error))
            alive = False
        serving = health_pb2.HealthCheckResponse.SERVING if alive else health_pb2.HealthCheckResponse.NOT_SERVING
        await status.set(VIDEO_SERVICE, serving)
        stopping = await liveness.stopping_within(HEALTH_SECONDS)
    await status.enter_graceful_shutdown()
