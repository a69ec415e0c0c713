"""Files of fal's clients: uploads, and what becomes of their URLs in inputs."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import Query
from starlette.responses import Response

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.api.names import MEDIA, MEDIA_ID, OPERATIONS, new_id
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.auth.callers import bearer
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError, with_fields
from zoetrope.serving.gateway.http.common.bodies import too_large
from zoetrope.serving.gateway.http.common.calls import CurrentCall, HttpCall
from zoetrope.serving.gateway.http.common.files import media_response
from zoetrope.serving.gateway.http.common.routes import FILE, AsciiResponse, api_router
from zoetrope.serving.gateway.http.common.signed_urls import signer
from zoetrope.serving.gateway.http.fal import schema
from zoetrope.serving.gateway.http.fal.api import FAL
from zoetrope.serving.gateway.http.transport.timeouts import length_of
from zoetrope.serving.gateway.submit.media import MediaNotFound
from zoetrope.serving.gateway.submit.media_refs import replace_media
from zoetrope.serving.jobs.db.errors import StoreRefused

PURPOSE = "fal-upload-1"  # counted up whenever the contents of what is signed change
UPLOAD_SECONDS = 3_600
TOKEN_SECONDS = 3_600.0
MAX_NAME_CHARS = 128
REST = "/fal/rest"
UPLOADED = re.compile(r"/fal/files/(med_[a-z0-9]+)/[^/?#]*")
OUTPUT = re.compile(r"/files/(vid_[a-z0-9]+)(?:\?[^#]*)?")
router = api_router(FAL.name, FAL.errors)
body_router = api_router(FAL.name, FAL.errors, files=True)
open_router = api_router(FAL.name, FAL.errors, needs_key=False, files=True)
ROUTERS = (router, body_router, open_router)
BINARY: dict[str, Any] = {
    "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.post(
    f"{REST}/storage/upload/initiate", summary="Say where to upload a file.", response_model=schema.InitiatedUpload
)
async def initiate(call: CurrentCall, body: schema.InitiateUpload) -> Response:
    media_id, expires = new_id(MEDIA_ID), int(time.time()) + UPLOAD_SECONDS
    granted = json.dumps([call.who.owner, call.who.key_id, media_id, body.file_name[:MAX_NAME_CHARS]])
    encoded = base64.urlsafe_b64encode(granted.encode()).rstrip(b"=").decode()
    signature = (await signer(call.core)).sign(PURPOSE, encoded, expires)
    url = f"{call.base_url}{REST}/storage/upload/{encoded}?expires={expires}&signature={signature}"
    return AsciiResponse({"upload_url": url, "file_url": _file_url(call, media_id, body.file_name)})


@open_router.put(
    f"{REST}/storage/upload/{{grant}}",
    summary="Upload a file where that says.",
    response_model=schema.UploadDone,
    openapi_extra=BINARY,
)
async def upload(
    call: CurrentCall,
    grant: str,
    expires: Annotated[str, Query(description="as the URL has it")] = "",
    signature: Annotated[str, Query(description="as the URL has it")] = "",
) -> Response:
    (await signer(call.core)).check(PURPOSE, grant, expires, signature, time.time())
    owner, key_id, media_id, name = json.loads(base64.urlsafe_b64decode(grant + "=" * (-len(grant) % 4)))
    stores = call.core.stores
    revoked = [] if key_id is None else await asyncio.to_thread(stores.keys.revoked, [key_id])
    if revoked:
        raise ApiError("PERMISSION_DENIED", "KEY_REVOKED", "the key that asked for this URL was revoked")
    if await asyncio.to_thread(stores.media.get, media_id, owner) is not None:
        raise _taken()
    await _keep(replace(call, who=Principal(owner)), name, media_id)
    return AsciiResponse({})


@router.post(
    f"{REST}/storage/auth/token", summary="What uploads are authenticated with.", response_model=schema.UploadToken
)
async def token(call: CurrentCall) -> Response:
    """The caller's own key: nothing else is needed here."""
    key = bearer(call.request.headers.get("authorization")) or "none"
    expires = datetime.fromtimestamp(time.time() + TOKEN_SECONDS, UTC).isoformat()
    found = schema.UploadToken(token=key, token_type="Bearer", base_url=call.base_url + REST, expires_at=expires)
    return AsciiResponse(found.model_dump(), headers={"cache-control": "no-store"})


@body_router.post(
    f"{REST}/files/upload",
    summary="Upload a file; X-Fal-File-Name is its name.",
    response_model=schema.Uploaded,
    openapi_extra=BINARY,
)
async def upload_directly(call: CurrentCall) -> Response:
    name, media_id = call.request.headers.get("x-fal-file-name", ""), new_id(MEDIA_ID)
    await _keep(call, name[:MAX_NAME_CHARS], media_id)
    return AsciiResponse({"access_url": _file_url(call, media_id, name)})


@router.post(f"{REST}/storage/upload/initiate-multipart", summary="Refuses: files come in one piece.")
@router.post(f"{REST}/files/upload/multipart", summary="Refuses: files come in one piece.")
async def in_parts(call: CurrentCall) -> Response:
    limit = call.core.settings.max_upload_bytes
    message = f"a file that the client sends in parts (above 90 MiB) is not taken; files may have {limit} bytes"
    raise ApiError("INVALID_ARGUMENT", "BODY_TOO_LARGE", message)


@router.get("/fal/files/{file_id}/{filename}", summary="A file that was uploaded; honours Range.", **FILE)
async def download(call: CurrentCall, file_id: str, filename: str) -> Response:
    try:
        media = await call.core.client_media.ready(call.who.owner, file_id)
    except MediaNotFound:  # which is about a field where an input names it
        raise ApiError("NOT_FOUND", "UNKNOWN_FILE", f"there is no file {short(file_id)} that is ready") from None
    return media_response(call, media)


def localised(call: HttpCall, data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace URLs of this service in a submission's data by what they stand for: a service that fetched from itself
    would need its own key, and a way to itself."""
    bases = {call.base_url, str(call.request.base_url).rstrip("/")}
    return replace_media(data, lambda source: _local(source, bases))


def _local(source: str, bases: set[str]) -> str:
    for base in bases:
        if source.startswith(f"{base}/"):
            path = source.removeprefix(base)
            if (match := UPLOADED.fullmatch(path)) is not None:
                return MEDIA + match[1]
            if (match := OUTPUT.fullmatch(path)) is not None:
                return OPERATIONS + match[1]
    return source


def _taken() -> ApiError:
    return ApiError("ALREADY_EXISTS", "FILE_EXISTS", "a file was uploaded here before")


def _file_url(call: HttpCall, media_id: str, name: str) -> str:
    kept = quote(unquote(name)[:MAX_NAME_CHARS].replace("/", "_"), safe="")
    if kept in ("", ".", ".."):  # clients take dots for steps along the path
        kept = "file"
    return f"{call.base_url}/fal/files/{media_id}/{kept}"


async def _keep(call: HttpCall, name: str, media_id: str) -> None:
    """Keep the request's body as a medium of the caller.

    Raises:
        ApiError: it is too large, or no file that can be used.
    """
    scratch = call.core.settings.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        path = Path(directory) / "file"
        await _write_body(call, path)
        try:
            await call.core.client_media.add_file(call.who.owner, path, name, media_id)
        except StoreRefused as error:
            if await asyncio.to_thread(call.core.stores.media.get, media_id, call.who.owner) is None:
                raise as_api_error(error) from None
            raise _taken() from None  # by another upload, meanwhile
        except Exception as error:
            raise with_fields(as_api_error(error), lambda _: "body") from None


async def _write_body(call: HttpCall, path: Path) -> None:
    limit, size = call.core.settings.max_upload_bytes, 0
    if length_of(call.request.headers) > limit:
        raise too_large(limit)
    with path.open("wb") as file:
        async for chunk in call.request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            await asyncio.to_thread(file.write, chunk)
