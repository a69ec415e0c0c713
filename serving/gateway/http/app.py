"""The HTTP side as one FastAPI application: the compatibility APIs, the dashboard, probes and the OpenAPI document."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Request
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from zoetrope import __version__
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.http import health, openapi
from zoetrope.serving.gateway.http.common.bodies import Bodies
from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.gateway.http.compatibility_apis import COMPATIBILITY_APIS
from zoetrope.serving.gateway.http.dashboard import routes as dashboard
from zoetrope.serving.gateway.http.openai.addresses import refuse_address
from zoetrope.serving.gateway.http.recorded import Recorded
from zoetrope.serving.gateway.http.transport.timeouts import BoundedBodies

# FastAPI's own records exceptions with what they say, which may be what a user wrote.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def http_app(core: Core) -> openapi.DocumentedApp:
    """Make the application. Each API renders its own errors; those of addresses that none has are rendered here."""
    app = openapi.DocumentedApp(
        title="Zoetrope",
        version=__version__,
        description="Videos by the Wan family of models: the same jobs by several APIs that other services defined.",
        openapi_url=None,  # served by a route of ours, at a caller's pace
        telemetry=NO_TELEMETRY,
        separate_input_output_schemas=False,  # one name for each schema
        middleware=[Middleware(Recorded), *_cors(core), Middleware(BoundedBodies), Middleware(HeadAsGet)],
        exception_handlers={HTTPException: _refuse},
    )
    app.state.core, app.state.bodies = core, Bodies(core.pace)
    routers = [health.router, *(router for api in COMPATIBILITY_APIS for router in api.routers())]
    for router in (*routers, *dashboard.ROUTERS, openapi.router):
        app.router.routes.extend(router.routes)  # `include_router` would build each anew, at the first call
    return app


def _cors(core: Core) -> list[Middleware]:
    """Let pages of the allowed origins call; their keys travel in headers, never in cookies."""
    origins = core.settings.allow_origins
    if not origins:
        return []
    methods, every = ("GET", "POST", "PUT", "DELETE"), ("*",)
    return [
        Middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=every, expose_headers=every
        )
    ]


class HeadAsGet:
    """Middleware: HEAD is answered as GET is; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {**(error.headers or {})}
    if "Allow" in headers:
        headers["Allow"] = ", ".join(_methods(request))
    body = None
    if error.detail == HTTPStatus(error.status_code).phrase:  # no route says more
        base_url = HttpCall(request.app.state.core, request, Principal()).base_url
        allowed = headers.get("Allow", "")
        body = refuse_address(request.method, request.url.path, base_url, error.status_code, allowed)
    return JSONResponse(body or {"error": error.detail}, status_code=error.status_code, headers=headers)


def _methods(request: Request) -> list[str]:
    """List the methods that the address takes, whichever route takes them: Starlette tells those of one."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in routes for method in getattr(route, "methods", None) or ()}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))  # see HeadAsGet
