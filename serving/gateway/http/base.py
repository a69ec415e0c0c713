"""What all HTTP faces share: endpoints as data, bounded bodies, keys, and errors in the face's own form."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from model.tasks import Violation, invalid_request, short
from serving.gateway.callers import bearer, set_caller
from serving.gateway.core import Core, file_of
from serving.gateway.doorkeeper import Principal
from serving.gateway.errors import ApiError, as_api_error, join_violations, whole_seconds
from serving.gateway.http.bodies import (
    MAX_JSON_MARKS,
    TURN_SECONDS,
    Bodies,
    count_marks,
    json_object,
    length_of,
    malformed,
)
from serving.gateway.http.patience import CONNECTION, BoundedProtocol
from serving.jobs.job import Job

MAX_JSON_BYTES = 12 << 20  # media may come as data: addresses, as large as in a gRPC message
Handler: TypeAlias = Callable[["Call"], Awaitable[Response]]
RenderError: TypeAlias = Callable[[ApiError], Response]


class FileResponse(StreamingResponse):
    """Begins to answer when the first bytes are there: a file that is gone is an error, not an answer cut short."""

    async def stream_response(self, send: Send) -> None:
        chunks = aiter(self.body_iterator)
        try:
            first = await anext(chunks, b"")
        except Exception as error:
            found = as_api_error(error)
            raise HTTPException(found.http_status, found.message) from None

        async def every() -> AsyncIterator[Any]:
            yield first
            async for chunk in chunks:
                yield chunk

        self.body_iterator = every()
        try:
            await super().stream_response(send)
        finally:  # at once where the client has gone: it has a turn
            for one in (self.body_iterator, chunks):
                if (close := getattr(one, "aclose", None)) is not None:
                    await close()


@dataclass(frozen=True)
class Call:
    """A request of a caller that was admitted."""

    core: Core
    request: Request
    who: Principal

    @property
    def path(self) -> dict[str, str]:
        return {key: str(value) for key, value in self.request.path_params.items()}


@dataclass(frozen=True)
class Endpoint:
    """A route, and what the OpenAPI document says of it.

    Attributes:
        path: Starlette's notation, e.g. ``/v1/predictions/{prediction_id}``.
        body: model of the request's body, for the document; handlers parse it with `read_model`.
        body_type: its media type.
        answer: model of a successful answer; None for files and empty ones.
        status: of a successful answer.
        query: names of query parameters and what they mean.
        headers: the same of request headers.
        open: needs no key (probes, documents, pages without data).
    """

    method: str
    path: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    body_type: str = "application/json"
    answer: type[BaseModel] | None = None
    answer_type: str = "application/json"
    status: int = 200
    query: Sequence[tuple[str, str]] = ()
    headers: Sequence[tuple[str, str]] = ()
    open: bool = False


def route(core: Core, endpoint: Endpoint, render: RenderError, bodies: Bodies) -> Route:
    """A Starlette route that admits the caller, runs the handler and answers errors in the face's form."""

    async def answer(request: Request) -> Response:
        connection: BoundedProtocol | None = request.scope.get("state", {}).get(CONNECTION)
        try:
            address = request.client.host if request.client else ""
            who = Principal(address=address)
            if endpoint.open:
                set_caller(who)
            else:
                who = await core.admit(bearer(request.headers.get("authorization")), address)
                if who.key_id is None:
                    check_browser(request, core.settings.public_url)
                if connection is not None:
                    connection.admitted(who.name)
            call = Call(core, request, who)
            if endpoint.open and endpoint.method == "GET":
                return await endpoint.handler(call)
            if endpoint.method == "GET":
                async with core.answers.turn(who.name, TURN_SECONDS):
                    return await endpoint.handler(call)
            async with bodies.turn(request.headers, who.name):
                return await endpoint.handler(call)
        except (ClientDisconnect, HTTPException):
            raise
        except Exception as error:
            found = as_api_error(error)
            response = render(found)
            if found.retry_seconds is not None:
                response.headers["retry-after"] = str(whole_seconds(found.retry_seconds))
            if found.http_status == 401:
                response.headers["www-authenticate"] = "Bearer"
                if connection is not None and connection.refused():
                    response.headers["connection"] = "close"
            return response

    return Route(endpoint.path, answer, methods=[endpoint.method])


def check_browser(request: Request, public_url: str) -> None:
    """While no keys are asked for, a page of somebody else's in the user's browser must reach nothing: neither by
    sending forms across sites, nor by giving its own name our address (DNS rebinding).

    Raises:
        ApiError: PERMISSION_DENIED.
    """
    headers, public = request.headers, urlsplit(public_url)
    elsewhere = headers.get("sec-fetch-site") == "cross-site"
    if (origin := headers.get("origin")) is not None:  # a browser's word on whose page it is; "null" is nobody's
        elsewhere |= urlsplit(origin).netloc not in (headers.get("host", ""), public.netloc) or origin == "null"
    if elsewhere:
        raise ApiError("PERMISSION_DENIED", "CROSS_SITE", "pages of other sites need a key to call this service")
    try:
        host = (urlsplit("//" + headers.get("host", "")).hostname or "").rstrip(".")
        if host in ("", "localhost") or host.endswith(".localhost") or host == public.hostname:
            return
        # 0.0.0.0 and :: are addresses of no machine, which browsers and systems lead to this one.
        known = not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        known = False
    if not known:
        raise ApiError(
            "PERMISSION_DENIED",
            "UNKNOWN_HOST",
            "without a key this service answers by its address, as localhost, or by the name of its public URL",
        )


async def read_json(request: Request, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ApiError: it is none, or too large.
    """
    body, marks = bytearray(), 0
    if length_of(request.headers) <= limit:
        async for chunk in request.stream():
            body += chunk
            marks += count_marks(chunk)
            if len(body) > limit or marks > MAX_JSON_MARKS:
                break
    if max(len(body), length_of(request.headers)) > limit:
        raise ApiError("INVALID_ARGUMENT", "BODY_TOO_LARGE", f"body: more than the {limit} bytes that are allowed")
    if marks > MAX_JSON_MARKS:
        raise malformed(f"holds more than {MAX_JSON_MARKS} commas, colons, brackets and braces")
    return await json_object(body)


def parse(model: type[BaseModel], value: Any) -> Any:
    """
    Raises:
        InvalidRequest: with the path of each field at fault.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_request(error) from None


async def read_model(request: Request, model: type[BaseModel], limit: int = MAX_JSON_BYTES) -> Any:
    """A JSON body as ``model``.

    Raises:
        ApiError, InvalidRequest: see `read_json` and `parse`.
    """
    return parse(model, await read_json(request, limit))


def with_fields(error: ApiError, name: Callable[[str], str]) -> ApiError:
    """The same answer with the fields at fault named as the face calls them."""
    if not error.violations:
        return error
    violations = tuple(Violation(name(violation.field), violation.description) for violation in error.violations)
    return ApiError(
        error.code,
        error.reason,
        join_violations(violations, error.unlisted),
        violations=violations,
        unlisted=error.unlisted,
        metadata=error.metadata,
        retry_seconds=error.retry_seconds,
        quota=error.quota,
    )


def base_url(call: Call) -> str:
    """How the caller reaches the HTTP side, without a slash at the end."""
    public = call.core.settings.public_url.rstrip("/")
    return public or str(call.request.base_url).rstrip("/")


def file_response(call: Call, job: Job, which: str = "video", filename: str | None = None) -> Response:
    """A finished file in a stream; honours ``Range: bytes=A-B``.

    Raises:
        NoFile: there is none.
    """
    file = file_of(job, which)
    return stream_file(call, file, filename or job.id + "." + file["key"].rpartition(".")[2])


def stream_file(call: Call, file: Mapping[str, Any], filename: str) -> Response:
    """A stored file (key, size_bytes, sha256, mime_type) in a stream; honours ``Range: bytes=A-B``.

    Raises:
        ApiError: OUT_OF_RANGE.
    """
    total = file["size_bytes"]
    start, end = byte_range(call.request.headers.get("range"), total)
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(end - start),
        "etag": f'"{file["sha256"]}"',
        "cache-control": "private, max-age=3600",
        "x-content-type-options": "nosniff",
        "content-disposition": f'inline; filename="{re.sub(r"[^A-Za-z0-9._-]", "_", filename)}"',
    }
    status = 200
    if (start, end) != (0, total):
        headers["content-range"] = f"bytes {start}-{end - 1}/{total}"
        status = 206
    stream = call.core.read(file["key"], start, end - start)
    return FileResponse(stream, status, headers, media_type=file["mime_type"])


def byte_range(header: str | None, total: int) -> tuple[int, int]:
    """Start and end (exclusive) of the one range that is asked for (RFC 9110, 14.2); all where the header is none that
    is understood.

    Raises:
        ApiError: OUT_OF_RANGE.
    """
    unit, _, spec = (header or "").partition("=")
    first, dash, last = spec.strip().partition("-")
    well_formed = dash and all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last))
    if unit.strip().lower() != "bytes" or not well_formed or first + last == "" or len(first + last) > 30:
        return 0, total
    if not first:
        start, end = max(0, total - int(last)), total
    else:
        start, end = int(first), min(total, int(last) + 1) if last else total
    if start >= total or start >= end:
        raise ApiError("OUT_OF_RANGE", "RANGE_BEYOND_END", f"range: {short(spec)} is beyond the end at {total} bytes")
    return start, end
