"""One address for all that fal's clients for JavaScript ask for: ``proxyUrl`` of ``@fal-ai/client``.

They send each request to it and say in a header which host of fal's it was meant for. It goes on to the route that
stands for that one, which authenticates and answers it. Nothing is fetched from fal.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote, urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument
from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.gateway.http.common.routes import AsciiResponse, GatewayRoute, api_router
from zoetrope.serving.gateway.http.fal.api import FAL, render_error
from zoetrope.serving.gateway.http.fal.inputs import OWNERS
from zoetrope.serving.gateway.http.fal.views import TARGET

PATH = "/fal/proxy"
QUEUE = "https://queue.fal.run"
QUEUE_OF_SCOPE = "fal_queue"  # set while clients believe that they talk to it
# Hosts of fal's -> where what they offer stands here.
HOSTS = {
    "queue.fal.run": "",
    "fal.run": "/fal/run",
    "rest.fal.ai": "/fal/rest",
    "rest.alpha.fal.ai": "/fal/rest",
}


def queue_url(call: HttpCall) -> str:
    """Return where the client believes the queue to be: some follow its URLs only to the host that they asked."""
    return str(call.request.scope.get(QUEUE_OF_SCOPE, call.base_url))


class _ProxyRoute(GatewayRoute):
    """A route that only passes on."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def answer(request: Request) -> Response:
            try:
                return _PassedOn(*_place_of(request.headers))
            except ApiError as error:
                status, body = render_error(error)
                return AsciiResponse(body, status)

        return answer


class _PassedOn(Response):
    """What the route at another path answers."""

    def __init__(self, path: str, query: str) -> None:
        self._path = path
        self._query = query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        changed = {
            **scope,
            "path": unquote(self._path),
            "raw_path": self._path.encode(),
            "query_string": self._query.encode(),
            QUEUE_OF_SCOPE: QUEUE,
        }
        await scope["app"].router(changed, receive, send)


def _place_of(headers: Headers) -> tuple[str, str]:
    """Return path and query of the route that stands for the URL that a request was meant for.

    Raises:
        ApiError: it was meant for none that there is.
    """
    url = headers.get(TARGET, "")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    known = parts.path.isascii() and parts.query.isascii() if host in HOSTS else False
    if not known:
        raise invalid_argument(TARGET, f"{short(url)} is not a URL of {', '.join(HOSTS)}")
    if not HOSTS[host] and parts.path.split("/")[1:2] not in [[owner] for owner in OWNERS]:
        raise ApiError("NOT_FOUND", "UNKNOWN_APP", f"{TARGET}: {short(url)} is none of {', '.join(OWNERS)}")
    return HOSTS[host] + parts.path, parts.query


router = api_router(FAL.name, FAL.errors, needs_key=False)
router.route_class = type("Route", (_ProxyRoute, router.route_class), {})


async def _proxy() -> Response:
    """Nothing: the route does not come to its endpoint."""
    raise AssertionError


for _method in ("GET", "POST", "PUT"):
    router.add_api_route(
        PATH, _proxy, methods=[_method], summary=f"{_method} what the header {TARGET} says.", response_model=None
    )
