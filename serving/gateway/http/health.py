"""Liveness and readiness for probes."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from serving.gateway.errors import ApiError
from serving.gateway.http.base import Call, Endpoint


async def healthz(call: Call) -> Response:
    return JSONResponse({"status": "ok"})


async def readyz(call: Call) -> Response:
    liveness = call.core.liveness
    rows = await liveness.seen()
    engines = [
        {"id": engine.id, "ranks": engine.ranks, "gang_epoch": engine.gang_epoch}
        for engine in rows
        if engine.state == "ready"
    ]
    body = {
        "ready": bool(engines),
        "model": liveness.model,
        "engines": engines,
        "out_of_service": [{"id": engine.id, "restarts": engine.restarts} for engine in rows if engine.state == "out"],
    }
    return JSONResponse(body, status_code=200 if engines else 503)


async def metrics(call: Call) -> Response:
    return Response(await call.core.metrics.get(None), media_type="text/plain; version=0.0.4")


def render_error(error: ApiError) -> Response:
    return JSONResponse({"error": error.message}, status_code=error.http_status)


ENDPOINTS = (
    Endpoint("GET", "/healthz", healthz, "200 while the process answers.", open=True),
    Endpoint("GET", "/readyz", readyz, "200 while an engine is up, else 503.", open=True),
    Endpoint("GET", "/metrics", metrics, "For Prometheus.", answer_type="text/plain", open=True),
)
