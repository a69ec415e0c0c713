"""Middleware: every HTTP call in metrics, and in a trace if it belongs to an API."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zoetrope.cluster.telemetry.traces import MAX_TRACEPARENT_CHARS
from zoetrope.serving.gateway.core.call_records import recorded_call

UNKNOWN = "unknown address"
OTHER = "other method"
PROBES = "/health", "/healthz", "/readyz", "/metrics"


class Recorded:
    """Counts calls by the route that took them, of which there are few; addresses that none takes count as one, and so
    do methods that a route has not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("traceparent", "")
        parent = given if len(given) <= MAX_TRACEPARENT_CHARS else ""
        with recorded_call("http", "", parent) as call:

            async def noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    call.code = str(message["status"])
                await send(message)

            try:
                await self._app(scope, receive, noting)
            finally:
                route = scope.get("route")
                path = getattr(route, "path_format", None) or getattr(route, "path", None)
                method = scope["method"] if scope["method"] in (getattr(route, "methods", None) or ()) else OTHER
                call.method = f"{method} {path}" if path else UNKNOWN
