"""Files of the Replicate API: uploads, and what becomes of their URLs in inputs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from fastapi import Query
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from zoetrope.serving.api.names import MEDIA, OPERATIONS
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument, with_fields
from zoetrope.serving.gateway.http.common.calls import CurrentCall, HttpCall
from zoetrope.serving.gateway.http.common.files import media_response
from zoetrope.serving.gateway.http.common.forms import add_upload, read_form
from zoetrope.serving.gateway.http.common.routes import FILE, AsciiResponse, api_router, form_of
from zoetrope.serving.gateway.http.openai import files as openai_files
from zoetrope.serving.gateway.http.replicate import schema
from zoetrope.serving.gateway.http.replicate.api import REPLICATE
from zoetrope.serving.gateway.http.replicate.views import file
from zoetrope.serving.gateway.submit.listing import decode_page_token, encode_page_token
from zoetrope.serving.gateway.submit.media_refs import replace_media

PAGE_SIZE = 100
MAX_METADATA_CHARS = 4_000
FILE_PATH = re.compile(r"/v1/files/(med_[a-z0-9]+)(?:/download)?")
OUTPUT_PATH = re.compile(
    r"(?:/v1/predictions/(vid_[a-z0-9]+)/output|/files/(vid_[a-z0-9]+))/(?:video|picture)\.[a-z0-9]+"
)
FILE_ID = re.compile(r"med_[a-z0-9]+")


Cursor: TypeAlias = Annotated[str, Query(description="as the page before gave it")]
router = api_router(REPLICATE.name, REPLICATE.errors)


@router.post(
    "/v1/files",
    summary="Upload a picture, a clip or a sound to use as an input; OpenAI's clients send it as file.",
    status_code=201,
    response_model=schema.File,
    openapi_extra=form_of(schema.UploadForm),
)
async def upload(call: CurrentCall) -> Response:
    async with read_form(call, max_files=len(schema.UploadForm.model_fields)) as form:
        if "file" in form and "content" not in form:
            return await openai_files.answer(openai_files.upload(call, form))
        content = form.get("content")
        if not isinstance(content, UploadFile):
            raise invalid_argument("content", "is missing, or not a file")
        for name in form:
            if name not in schema.UploadForm.model_fields:
                raise invalid_argument(name, "is not a field of an upload")
        _check_metadata(await _text(form, "metadata"))
        content.filename = await _text(form, "filename") or content.filename
        try:
            media = await add_upload(call, content)
        except Exception as error:
            raise _about_content(error) from None
    return AsciiResponse(file(media, call.base_url), 201)


@router.get("/v1/files", summary="Files, newest first.", response_model=schema.FilePage)
async def list_files(call: CurrentCall, cursor: Cursor = "") -> Response:
    if openai_files.is_openai(call):
        return await openai_files.answer(openai_files.list_files(call))
    before = cursor_of(cursor, "files")
    found = await call.core.media(call.who, page_size=PAGE_SIZE + 1, before=before)
    page = found[:PAGE_SIZE]
    following = None
    if len(found) > PAGE_SIZE:
        token = encode_page_token(page[-1].created_at, page[-1].id, "files")
        following = f"{call.base_url}/v1/files?cursor={token}"
    results = [file(media, call.base_url) for media in page if media.state == "ready"]
    return AsciiResponse({"previous": None, "next": following, "results": results})


@router.get("/v1/files/{file_id}", summary="A file's description.", response_model=schema.File)
async def get_file(call: CurrentCall, file_id: str) -> Response:
    if openai_files.is_openai(call):
        return await openai_files.answer(openai_files.get_file(call, file_id))
    media = await call.core.client_media.ready(call.who.owner, file_id)
    return AsciiResponse(file(media, call.base_url))


@router.get("/v1/files/{file_id}/content", summary="The same as download, for OpenAI's clients.", **FILE)
@router.get("/v1/files/{file_id}/download", summary="A file; honours Range.", **FILE)
async def download(call: CurrentCall, file_id: str) -> Response:
    return media_response(call, await call.core.client_media.ready(call.who.owner, file_id))


@router.delete("/v1/files/{file_id}", summary="Delete a file that no live job uses.", status_code=204)
async def delete_file(call: CurrentCall, file_id: str) -> Response:
    if openai_files.is_openai(call):
        return await openai_files.answer(openai_files.delete_file(call, file_id))
    await call.core.client_media.delete(call.who.owner, file_id)
    return Response(status_code=204)


def cursor_of(cursor: str, made_for: str) -> tuple[float, str] | None:
    """Decode a page's cursor.

    Raises:
        ApiError: it is malformed, or of another list.
    """
    try:
        return decode_page_token(cursor, made_for)
    except ApiError as error:
        raise with_fields(error, lambda name: "cursor") from None


def localised(call: HttpCall, data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace URLs of this service in a submission's data by what they stand for: a service that fetched from itself
    would need its own key, and a way to itself."""
    own = {_host(str(call.request.base_url)), _host(call.base_url)}
    return replace_media(data, lambda source: _local(source, own))


def _local(source: str, own: set[tuple[str, str]]) -> str:
    if FILE_ID.fullmatch(source):
        return MEDIA + source
    if not source.startswith(("http://", "https://")) or _host(source) not in own:
        return source
    path = urlsplit(source).path
    if (match := FILE_PATH.fullmatch(path)) is not None:
        return MEDIA + match[1]
    if (match := OUTPUT_PATH.fullmatch(path)) is not None:
        return OPERATIONS + (match[1] or match[2])
    return source


def _host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.netloc.lower()


async def _text(form: FormData, name: str) -> str:
    """Return a field's text, "" if it is not there, and of a long one the beginning. npm's client sends ``metadata`` as
    a file beside the content.

    Raises:
        ApiError: it is no text.
    """
    value = form.get(name) or ""
    try:
        return value if isinstance(value, str) else (await value.read(4 * MAX_METADATA_CHARS + 1)).decode()
    except UnicodeDecodeError:
        raise invalid_argument(name, "must be a text in UTF-8") from None


def _check_metadata(text: str) -> None:
    try:
        fine = not text or (len(text) <= MAX_METADATA_CHARS and isinstance(json.loads(text), dict))
    except (ValueError, RecursionError):
        fine = False
    if not fine:
        raise invalid_argument("metadata", f"must be a JSON object of at most {MAX_METADATA_CHARS} characters")


def _about_content(error: Exception) -> Exception:
    """Return the same error, about the form's field."""
    names = {"data": "content", "size_bytes": "content", "sha256": "content"}
    return with_fields(as_api_error(error), lambda name: names.get(name, name))
