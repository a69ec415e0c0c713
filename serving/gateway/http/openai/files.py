"""Files in OpenAI's shape. Replicate's API has the same addresses: its routes hand over what OpenAI's clients ask.

Who uploads ``file`` rather than ``content`` is one of them, and so is a client that says so, or that pages as OpenAI's
API does.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument, with_fields
from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.gateway.http.common.forms import add_upload
from zoetrope.serving.gateway.http.common.json_objects import parse
from zoetrope.serving.gateway.http.common.routes import AsciiResponse
from zoetrope.serving.gateway.http.openai.api import render_error
from zoetrope.serving.gateway.submit.media import MediaNotFound
from zoetrope.serving.jobs.media_table import Media

PAGE_SIZE = 100
PAGING = ("after", "limit", "order", "purpose")
FIELDS = {"data": "file", "size_bytes": "file", "sha256": "file", "name": "file_id"}


class UploadFields(BaseModel):
    """What a form has beside its file."""

    model_config = ConfigDict(extra="forbid")

    purpose: str = Field(default="user_data", max_length=64)


class Paging(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str = ""
    limit: int = Field(default=PAGE_SIZE, ge=1, le=10_000)
    order: Literal["desc"] = "desc"
    purpose: str = ""


def is_openai(call: HttpCall) -> bool:
    """Tell whether one of OpenAI's clients asks."""
    agent = call.request.headers.get("user-agent", "").lower()
    return "openai" in agent or any(name in call.request.query_params for name in PAGING)


async def answer(work: Awaitable[Any]) -> Response:
    """Answer what the work gives, errors in OpenAI's form too."""
    try:
        return AsciiResponse(await work)
    except Exception as error:
        status, body = render_error(with_fields(as_api_error(error), lambda name: FIELDS.get(name, name)))
        return AsciiResponse(body, status)


async def upload(call: HttpCall, form: FormData) -> dict[str, Any]:
    """Keep the form's ``file``.

    Raises:
        InvalidRequest: it cannot be used as an input, or another field is not known.
    """
    content = form.get("file")
    if not isinstance(content, UploadFile):
        raise invalid_argument("file", "is missing, or not a file")
    fields = parse(UploadFields, {name: value for name, value in form.items() if name != "file"})
    return file_object(await add_upload(call, content), fields.purpose)


async def list_files(call: HttpCall) -> dict[str, Any]:
    """Return a page of the caller's files, newest first."""
    asked = parse(Paging, dict(call.request.query_params))
    size = min(asked.limit, PAGE_SIZE)
    before = None
    if asked.after:
        try:
            last = await call.core.client_media.get(call.who.owner, asked.after)
        except MediaNotFound:
            raise invalid_argument("after", f"{short(asked.after)} is not a known file") from None
        before = (last.created_at, last.id)
    found = await call.core.media(call.who, page_size=size + 1, before=before)
    data = [file_object(media) for media in found[:size] if media.state == "ready"]
    ids = [item["id"] for item in data]
    page = {"object": "list", "data": data, "has_more": len(found) > size}
    return {**page, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}


async def get_file(call: HttpCall, file_id: str) -> dict[str, Any]:
    """Describe a file."""
    media = await call.core.client_media.get(call.who.owner, file_id)
    if media.state != "ready":
        raise ApiError("NOT_FOUND", "UNKNOWN_MEDIA", f"file_id: {short(file_id)} is still being uploaded")
    return file_object(media)


async def delete_file(call: HttpCall, file_id: str) -> dict[str, Any]:
    """Delete a file that no live job uses."""
    await call.core.client_media.delete(call.who.owner, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def file_object(media: Media, purpose: str = "user_data") -> dict[str, Any]:
    """Show a file; what it was said to be for is not kept."""
    return {
        "id": media.id,
        "object": "file",
        "bytes": media.size_bytes,
        "created_at": int(media.created_at),
        "expires_at": int(media.expire_at),
        "filename": media.filename or media.id,
        "purpose": purpose,
        "status": "processed",
    }
