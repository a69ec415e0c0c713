"""Read the bodies of requests: large ones in turn, and none beyond its limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request

from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.json_objects import MAX_JSON_MARKS, count_marks, json_object, malformed
from zoetrope.serving.gateway.http.transport.timeouts import SMALL_BYTES, length_of
from zoetrope.serving.gateway.limits.pace import Pace
from zoetrope.serving.gateway.limits.unfinished import CallerLimits

FORM = "multipart/form-data"
MAX_JSON_BYTES = 12 << 20  # media may come as data: URLs, as large as in a gRPC message


class Bodies:
    """Bounds the large bodies that a caller may send at a time, each until its request is answered. One per gateway."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._json = CallerLimits(own=1, most=2, common=4)
        self._forms = CallerLimits(own=2, most=16, common=64)  # their files go to disk

    @asynccontextmanager
    async def turn(self, request: Request, caller: str, *, form: bool) -> AsyncIterator[None]:
        """Wait until the caller may send this body, and hold its place meanwhile. After a large JSON body the place
        stays taken for a while.

        Args:
            form: it will be read as a form whose files go to disk, or is such a file.

        Raises:
            LimitReached.
        """
        headers = request.headers
        if "transfer-encoding" not in headers and length_of(headers) <= SMALL_BYTES:
            yield
            return
        async with (self._forms if form else self._json).turn(caller) as turn:
            try:
                yield
            finally:
                if not form:
                    turn.rest = self._pace.rest(max(length_of(headers), getattr(request.state, "body_bytes", 0)))


async def read_json(request: Request) -> dict[str, Any]:
    """Read a JSON object, whatever type the body is announced with.

    Raises:
        ApiError: it is not an object, or is too large.
    """
    body, marks = bytearray(), 0
    if length_of(request.headers) <= MAX_JSON_BYTES:
        async for chunk in request.stream():
            body += chunk
            marks += count_marks(chunk)
            if len(body) > MAX_JSON_BYTES or marks > MAX_JSON_MARKS:
                break
    request.state.body_bytes = len(body)  # which a body in chunks does not announce
    if max(len(body), length_of(request.headers)) > MAX_JSON_BYTES:
        raise too_large(MAX_JSON_BYTES)
    if marks > MAX_JSON_MARKS:
        raise malformed(f"holds more than {MAX_JSON_MARKS} commas, colons, brackets and braces")
    return await json_object(body)


def media_type_of(headers: Headers) -> str:
    """Return the type that a body is announced with, without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def too_large(limit: int) -> ApiError:
    """Return the refusal of a body of more than ``limit`` bytes."""
    return ApiError("INVALID_ARGUMENT", "BODY_TOO_LARGE", f"body: more than the {limit} bytes that are allowed")
