"""The HTTP face: liveness and readiness for probes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serving.gateway.liveness import Liveness


def http_app(liveness: Liveness) -> Starlette:
    """GET /healthz: 200 while the process answers. GET /readyz: 200 while an engine is up, else 503."""

    async def healthz(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> JSONResponse:
        engines = [
            {"id": engine.id, "ranks": engine.ranks, "gang_epoch": engine.gang_epoch} for engine in liveness.engines()
        ]
        body = {"ready": bool(engines), "model": liveness.model, "engines": engines}
        return JSONResponse(body, status_code=200 if engines else 503)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz)])
