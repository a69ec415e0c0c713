"""Files of the Replicate face: uploads, and what becomes of their addresses in inputs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import UploadFile
from starlette.responses import Response

from serving.api.names import MEDIA, OPERATIONS
from serving.gateway.errors import ApiError, as_api_error, invalid_argument
from serving.gateway.http import replicate_models as schema
from serving.gateway.http.base import Call, Endpoint, base_url, stream_file, with_fields
from serving.gateway.http.forms import add_upload, read_form
from serving.gateway.http.replicate_errors import answer
from serving.gateway.http.replicate_views import file
from serving.gateway.listing import decode_page_token, encode_page_token
from serving.gateway.media_desk import UnknownMedia
from serving.gateway.sources import put_media, take_media
from serving.jobs.media_table import Media

PAGE_SIZE = 100
MAX_METADATA_CHARS = 4_000
FILE = re.compile(r"/v1/files/(med_[a-z0-9]+)(?:/download)?")
OUTPUT = re.compile(r"/v1/predictions/(vid_[a-z0-9]+)/output/(?:video|picture)\.[a-z0-9]+")
FILE_ID = re.compile(r"med_[a-z0-9]+")


async def upload(call: Call) -> Response:
    """POST /v1/files"""
    async with read_form(call, max_files=1) as form:
        content = form.get("content")
        if not isinstance(content, UploadFile):
            raise invalid_argument("content", "is missing, or no file")
        for name in form:
            if name not in schema.UploadForm.model_fields:
                raise invalid_argument(name, "is no field of an upload")
        _check_metadata(form.get("metadata"))
        filename = form.get("filename")
        if isinstance(filename, str) and filename:
            content.filename = filename
        try:
            media = await add_upload(call, content)
        except Exception as error:
            raise _about_content(error) from None
    return answer(file(media, base_url(call)), 201)


async def list_files(call: Call) -> Response:
    """GET /v1/files"""
    try:
        before = decode_page_token(call.request.query_params.get("cursor", ""), "files")
    except ApiError as error:
        raise with_fields(error, lambda name: "cursor") from None
    found = await call.core.media(call.who, page_size=PAGE_SIZE + 1, before=before)
    page, base = found[:PAGE_SIZE], base_url(call)
    following = None
    if len(found) > PAGE_SIZE:
        cursor = encode_page_token(page[-1].created_at, page[-1].id, "files")
        following = f"{base}/v1/files?cursor={cursor.replace('=', '%3D')}"
    results = [file(media, base) for media in page if media.state == "ready"]
    return answer({"previous": None, "next": following, "results": results})


async def get_file(call: Call) -> Response:
    """GET /v1/files/{file_id}"""
    return answer(file(await _ready(call), base_url(call)))


async def download(call: Call) -> Response:
    """GET /v1/files/{file_id}/download"""
    media = await _ready(call)
    stored = {
        "key": media.key,
        "size_bytes": media.size_bytes,
        "sha256": media.sha256,
        "mime_type": media.mime_type or "application/octet-stream",
    }
    return stream_file(call, stored, media.filename or media.id)


async def delete_file(call: Call) -> Response:
    """DELETE /v1/files/{file_id}"""
    await call.core.desk.delete(call.who.owner, call.path["file_id"])
    return Response(status_code=204)


async def _ready(call: Call) -> Media:
    media = await call.core.desk.get(call.who.owner, call.path["file_id"])
    if media.state != "ready":
        raise UnknownMedia("name", MEDIA + media.id)
    return media


def localised(call: Call, data: Mapping[str, Any]) -> dict[str, Any]:
    """An order's data with addresses of this service replaced by what they stand for: a service that fetched from
    itself would need its own key, and a way to itself."""
    if not isinstance(data.get("task"), Mapping):
        return dict(data)
    own = {_host(str(call.request.base_url)), _host(base_url(call))}
    named = take_media(data)
    return put_media(named.data, {placeholder: _local(source, own) for placeholder, source in named.media.items()})


def _local(source: str, own: set[tuple[str, str]]) -> str:
    if FILE_ID.fullmatch(source):
        return MEDIA + source
    if not source.startswith(("http://", "https://")) or _host(source) not in own:
        return source
    path = urlsplit(source).path
    if (match := FILE.fullmatch(path)) is not None:
        return MEDIA + match[1]
    if (match := OUTPUT.fullmatch(path)) is not None:
        return OPERATIONS + match[1]
    return source


def _host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.netloc.lower()


def _check_metadata(text: object) -> None:
    if text is None or text == "":
        return
    try:
        fine = isinstance(text, str) and len(text) <= MAX_METADATA_CHARS and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        fine = False
    if not fine:
        raise invalid_argument("metadata", f"is no JSON object of at most {MAX_METADATA_CHARS} characters")


def _about_content(error: Exception) -> Exception:
    """The same, about the field of the form."""
    names = {"data": "content", "size_bytes": "content", "sha256": "content"}
    return with_fields(as_api_error(error), lambda name: names.get(name, name))


ENDPOINTS: Sequence[Endpoint] = (
    Endpoint(
        "POST",
        "/v1/files",
        upload,
        "Upload a picture, a clip or a sound to use as an input.",
        schema.UploadForm,
        "multipart/form-data",
        schema.File,
        status=201,
    ),
    Endpoint(
        "GET",
        "/v1/files",
        list_files,
        "Files, newest first.",
        answer=schema.FilePage,
        query=(("cursor", "as the page before gave it"),),
    ),
    Endpoint("GET", "/v1/files/{file_id}", get_file, "A file's description.", answer=schema.File),
    Endpoint(
        "GET",
        "/v1/files/{file_id}/download",
        download,
        "A file; honours Range.",
        answer_type="*/*",
    ),
    Endpoint("DELETE", "/v1/files/{file_id}", delete_file, "Delete a file that no live job uses.", status=204),
)
