"""Answer stored files in a stream."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.core.core import file_of
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.jobs.job import Job, Preview
from zoetrope.serving.jobs.media_table import Media


class FileResponse(StreamingResponse):
    """Starts once the first bytes are there: a file that is gone is an error, not an answer cut short."""

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
        finally:  # at once if the client has gone: it holds a turn
            for one in (self.body_iterator, chunks):
                if (close := getattr(one, "aclose", None)) is not None:
                    await close()


def file_response(call: HttpCall, job: Job) -> Response:
    """Answer a job's video or picture; honours ``Range: bytes=A-B``.

    Raises:
        NoFile: it has none, or none yet.
        ApiError: OUT_OF_RANGE.
    """
    file = file_of(job)
    return stream_file(call, file, job.id + "." + file["key"].rpartition(".")[2])


def preview_response(call: HttpCall, preview: Preview, headers: Mapping[str, str]) -> Response:
    """Answer a job's preview."""
    headers = {**headers, "x-content-type-options": "nosniff"}
    return FileResponse(call.core.read(preview.key), headers=headers, media_type=preview.mime_type)


def media_response(call: HttpCall, media: Media) -> Response:
    """Answer a file that a client brought, one that is ready; honours ``Range: bytes=A-B``.

    Raises:
        ApiError: OUT_OF_RANGE.
    """
    stored = {
        "key": media.key,
        "size_bytes": media.size_bytes,
        "sha256": media.sha256,
        "mime_type": media.mime_type or "application/octet-stream",
    }
    return stream_file(call, stored, media.filename or media.id)


def stream_file(call: HttpCall, file: Mapping[str, Any], filename: str) -> Response:
    """Answer a stored file (key, size_bytes, sha256, mime_type); honours ``Range: bytes=A-B``.

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
    """Return start and end (exclusive) of the one range that a header asks for (RFC 9110, 14.2); the whole file if the
    header is missing or not understood.

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
