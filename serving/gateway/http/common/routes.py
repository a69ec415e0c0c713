"""Routes that authenticate the caller, read the body within its limits and answer errors in their API's own form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any, ClassVar

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from zoetrope.model.request.schema_errors import describe
from zoetrope.model.request.tasks import InvalidRequest, Violation
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.auth.callers import bearer, set_caller
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError, whole_seconds
from zoetrope.serving.gateway.http.common.bodies import FORM, Bodies, media_type_of, read_json
from zoetrope.serving.gateway.http.common.browsers import check_browser
from zoetrope.serving.gateway.http.common.calls import HttpCall, set_call
from zoetrope.serving.gateway.http.common.compatibility import ErrorFormat
from zoetrope.serving.gateway.http.common.json_objects import parse
from zoetrope.serving.gateway.http.transport.timeouts import CONNECTION, BoundedProtocol

REF = "#/components/schemas/{model}"
PIECE_BYTES = 64 << 10
BINARY = {"type": "string", "format": "binary"}
FILE: dict[str, Any] = {  # options of a route that answers a file
    "response_class": Response,
    # Generators of clients know the first of the two; the second one is what is true.
    "responses": {200: {"content": {kind: {"schema": BINARY} for kind in ("application/octet-stream", "*/*")}}},
}


class AsciiResponse(JSONResponse):
    """JSON in ASCII: what clients send and see again may hold any character."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


class GatewayRoute(APIRoute):
    """A route of an API. A body that the endpoint declares is read and checked before FastAPI sees the request."""

    errors: ClassVar[ErrorFormat]
    open: ClassVar[bool]  # needs no key
    files: ClassVar[bool]  # bodies are files, which go to disk

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = super().get_route_handler()

        async def answer(request: Request) -> Response:
            connection: BoundedProtocol | None = request.scope.get("state", {}).get(CONNECTION)
            try:
                call = await self._authenticate(request, connection)
                set_call(call)
                async with AsyncExitStack() as turn:
                    await turn.enter_async_context(self._turn(call))
                    response = await endpoint(await self._with_body(request))
                    if len(getattr(response, "body", b"")) <= PIECE_BYTES:
                        return response
                    return _LargeAnswer(response, turn.pop_all())
            except (ClientDisconnect, HTTPException):
                raise
            except RequestValidationError as error:
                return self._refuse(as_api_error(_invalid_request(error)), connection)
            except Exception as error:
                return self._refuse(as_api_error(error), connection)

        return answer

    async def _authenticate(self, request: Request, connection: BoundedProtocol | None) -> HttpCall:
        core: Core = request.app.state.core
        address = request.client.host if request.client else ""
        who = Principal(address=address)
        if self.open:
            set_caller(who)
            await core.pace.wait(f"open {address}", known=False)
            return HttpCall(core, request, who)
        who = await core.authenticate(bearer(request.headers.get("authorization")), address)
        if who.key_id is None:
            check_browser(request.headers, core.settings.public_url, core.settings.allow_origins)
        if connection is not None:
            connection.authenticated(who.name)
        return HttpCall(core, request, who)

    def _turn(self, call: HttpCall) -> AbstractAsyncContextManager[object]:
        if "GET" not in (self.methods or ()):
            bodies: Bodies = call.request.app.state.bodies
            form = self.body_field is None and media_type_of(call.request.headers) == FORM
            return bodies.turn(call.request, call.who.name, form=form or self.files)
        return nullcontext() if self.open else call.core.answers.turn(call.who.name)

    async def _with_body(self, request: Request) -> Request:
        if self.body_field is None:
            return request
        model = self.body_field.field_info.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel), "a body must be declared as a model"
        return _ReadRequest(request, parse(model, await read_json(request)))

    def _refuse(self, error: ApiError, connection: BoundedProtocol | None) -> Response:
        status, body = self.errors.render(error)
        response = AsciiResponse(body, status, media_type=self.errors.media_type)
        if error.retry_seconds is not None:
            response.headers["retry-after"] = str(whole_seconds(error.retry_seconds))
        if error.http_status == 401:
            response.headers["www-authenticate"] = "Bearer"
            if connection is not None and connection.refused():
                response.headers["connection"] = "close"
        return response


def api_router(tag: str, errors: ErrorFormat, *, needs_key: bool = True, files: bool = False) -> APIRouter:
    """Make a router for an API's endpoints.

    Args:
        tag: groups them in the OpenAPI document.
        files: their bodies are files as they stand.
    """
    route = type("Route", (GatewayRoute,), {"errors": errors, "open": not needs_key, "files": files})
    schema = {"type": "object"} if errors.model is None else schema_of(errors.model, "serialization")
    refusal = {"description": "What is wrong.", "content": {errors.media_type: {"schema": schema}}}
    return APIRouter(
        tags=[tag],
        route_class=route,
        responses={"default": refusal},
        generate_unique_id_function=_operation_id,
    )


def form_of(model: type[BaseModel]) -> dict[str, Any]:
    """Describe, as ``openapi_extra``, a multipart form that the endpoint reads itself."""
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema_of(model, "validation")}}}}


def schema_of(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
    """Return a reference to a model's schema, with all definitions beside it for the document to collect."""
    references, definitions = models_json_schema([(model, mode)], ref_template=REF)
    return {**references[model, mode], **definitions}


class _LargeAnswer(Response):
    """An answer that goes out in pieces and holds its caller's turn until the client has taken it: of those that nobody
    reads, only so many lie in memory."""

    def __init__(self, response: Response, turn: AsyncExitStack) -> None:
        self._response = response
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_pieces(message: Message) -> None:
            body: bytes = message.get("body", b"")
            for start in range(0, len(body), PIECE_BYTES):
                piece = body[start : start + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({**message, "body": b""} if body else message)  # waits until the last piece is taken

        async with self._turn:
            await self._response(scope, receive, in_pieces)


class _ReadRequest(Request):
    """A request whose body was read: FastAPI asks it for JSON and gets the checked model."""

    def __init__(self, request: Request, body: BaseModel) -> None:
        headers = [item for item in request.scope["headers"] if item[0] != b"content-type"]
        headers.append((b"content-type", b"application/json"))
        super().__init__({**request.scope, "headers": headers}, request.receive)
        self._read = body

    async def body(self) -> bytes:
        return b"{}"  # what it is does not matter, only that there is one

    async def json(self) -> Any:
        return self._read


def _invalid_request(error: RequestValidationError) -> InvalidRequest:
    """Name parameters at fault as the client does: without the place, which pydantic puts first."""
    violations = (Violation(".".join(map(str, item["loc"][1:])), describe(item)) for item in error.errors())
    return InvalidRequest(*violations, named=True)


def _operation_id(route: APIRoute) -> str:
    words = re.sub(r"\W+", "_", route.path_format).strip("_")
    return f"{min(route.methods or ()).lower()}_{words}"
