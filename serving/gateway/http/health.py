"""Liveness and readiness for probes, and metrics."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.calls import CurrentCall
from zoetrope.serving.gateway.http.common.compatibility import ErrorFormat
from zoetrope.serving.gateway.http.common.routes import api_router


def render_error(error: ApiError) -> tuple[int, dict[str, Any]]:
    """Return the status and ``{"error": MESSAGE}``."""
    return error.http_status, {"error": error.message}


ERRORS = ErrorFormat(render_error)
router = api_router("health", ERRORS, needs_key=False)


@router.get("/healthz", summary="200 while the process answers; tells the weights that it was started for.")
async def healthz(call: CurrentCall) -> Response:
    core = call.core
    models = [
        {
            "name": card.name,
            "weights": core.submitter.weights[card.name],
            "fused_adapters": [{"sha256": a.sha256, "strength": a.strength, "expert": a.expert} for a in card.adapters],
        }
        for card in core.models
    ]
    return JSONResponse({"status": "ok", "models": models})


@router.get("/health", summary="The same as /readyz, where vLLM's and SGLang's clients look for it.")
@router.get("/readyz", summary="200 while an engine is up, or would be started for a job, else 503.")
async def readyz(call: CurrentCall) -> Response:
    liveness = call.core.liveness
    rows = await liveness.seen()
    engines = [
        {"id": engine.id, "ranks": engine.ranks, "gang_epoch": engine.gang_epoch} for engine in rows if engine.working
    ]
    ready = liveness.takes_work(rows)
    body = {
        "ready": ready,
        "models": liveness.models,
        "engines": engines,
        "out_of_service": [{"id": engine.id, "restarts": engine.restarts} for engine in rows if engine.state == "out"],
    }
    return JSONResponse(body, status_code=200 if ready else 503)


@router.get("/metrics", summary="For Prometheus.", response_class=PlainTextResponse)
async def metrics(call: CurrentCall) -> Response:
    return Response(await call.core.metrics.get(None), media_type="text/plain; version=0.0.4")
