"""Read forms: bounded in size and number of parts; files go to disk as they come."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message

from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.bodies import FORM, MAX_JSON_BYTES, media_type_of, too_large
from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.jobs.media_table import Media

URLENCODED = "application/x-www-form-urlencoded"
MAX_FIELDS = 64
# Twice what the longest prompt needs. Each quoted byte is decoded in Python, in the event loop: megabytes take seconds.
MAX_URLENCODED_BYTES = 128 << 10
ROOM_BYTES = 1 << 20  # for everything but the files


@asynccontextmanager
async def read_form(call: HttpCall, *, max_files: int) -> AsyncIterator[FormData]:
    """Read the fields and files of a form; the files together may be as large as one upload, and are gone afterwards.

    Raises:
        ApiError: it is malformed, or too large.
    """
    charset = parse_options_header(call.request.headers.get("content-type", ""))[1].get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"utf8"):
        raise ApiError("INVALID_ARGUMENT", "MALFORMED_FORM", "content-type: the charset has to be utf-8")
    headers, multipart = call.request.headers, kind_of(call) == FORM
    limit = call.core.settings.max_upload_bytes + ROOM_BYTES if multipart else MAX_URLENCODED_BYTES
    bounds: dict[str, int] = {"max_fields": MAX_FIELDS, "max_part_size": MAX_JSON_BYTES}
    form = FormData()
    try:
        async with aclosing(Request(call.request.scope, _Limited(call.request, limit)).stream()) as stream:
            if multipart:
                form = await _Parser(headers, stream, max_files=max_files, **bounds).parse()
            elif kind_of(call) == URLENCODED:
                form = await FormParser(headers, stream, **bounds).parse()
    except MultiPartException as error:
        raise ApiError("INVALID_ARGUMENT", "MALFORMED_FORM", f"body: {error.message}") from None
    try:
        yield form
    finally:
        await form.close()


async def add_upload(call: HttpCall, upload: UploadFile) -> Media:
    """Keep a form's file as a medium of the caller.

    Raises:
        InvalidRequest: it cannot be used as one.
    """
    scratch = call.core.settings.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        path = Path(directory) / "file"
        await run_in_threadpool(_copy, upload, path)
        return await call.core.client_media.add_file(call.who.owner, path, upload.filename or "")


def is_form(call: HttpCall) -> bool:
    return kind_of(call) in (FORM, URLENCODED)


def kind_of(call: HttpCall) -> str:
    """Return the body's media type."""
    return media_type_of(call.request.headers)


class _Parser(MultiPartParser):
    """Bounds what is kept in memory: all fields together, and the beginnings of files."""

    spool_max_size = 64 << 10
    _text = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._text += end - start
            if self._text > MAX_JSON_BYTES:
                raise MultiPartException(f"the fields have more than {MAX_JSON_BYTES} bytes.")
        super().on_part_data(data, start, end)


class _Limited:
    """A request's ``receive`` that fails after so many bytes."""

    def __init__(self, request: Request, limit: int) -> None:
        self._receive = request.receive
        self._limit = limit
        self._seen = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise too_large(self._limit)
        return message


def _copy(upload: UploadFile, path: Path) -> None:
    upload.file.seek(0)
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file, 1 << 20)
