"""All HTTP faces as one Starlette application."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.gateway.core import Core
from serving.gateway.http import dashboard, dashscope, health, openai, openapi, replicate
from serving.gateway.http.base import Endpoint, RenderError, route
from serving.gateway.http.bodies import Bodies
from serving.gateway.http.patience import BoundedBodies

FACES: Sequence[tuple[Sequence[Endpoint], RenderError]] = (
    (health.ENDPOINTS, health.render_error),
    (replicate.ENDPOINTS, replicate.render_error),
    (openai.ENDPOINTS, openai.render_error),
    (dashscope.ENDPOINTS, dashscope.render_error),
    (dashboard.ENDPOINTS, dashboard.render_error),
    (openapi.ENDPOINTS, openapi.render_error),
)


def http_app(core: Core) -> Starlette:
    """The application; errors are each face's own, those of addresses that no face has are ours."""
    bodies = Bodies()
    return Starlette(
        routes=[route(core, endpoint, render, bodies) for endpoints, render in FACES for endpoint in endpoints],
        middleware=[Middleware(BoundedBodies)],
        exception_handlers={HTTPException: _refuse},
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
