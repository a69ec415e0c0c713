# ruff: noqa: N802 (the methods are named as in the proto)
"""grpc.health.v1.Health. That of grpcio-health-checking holds a lock while it writes to a watcher: one that reads
nothing would stop what all others are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from zoetrope.serving.gateway.errors.api_error import ApiError

Status = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """The servicer, and what it tells."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": Status.SERVING}
        self._changed = asyncio.Event()

    def set(self, service: str, status: int) -> None:
        """Tell those who watch; costs nothing where it is the same."""
        if self._statuses.get(service) != status:
            self._statuses[service] = status
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def stop(self) -> None:
        """From now on nothing is served."""
        for service in self._statuses:
            self.set(service, Status.NOT_SERVING)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            raise ApiError("NOT_FOUND", "UNKNOWN_SERVICE", "service: it is not one of this server")
        return Status(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told: int | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, Status.SERVICE_UNKNOWN)
            if status != told:
                told = status
                yield Status(status=status)
            else:
                await changed.wait()
