"""Local files of the ``dashscope`` SDK: it asks for a policy and posts the file, without its key, to the host that the
policy names, which in the original is an object store. Here it is this service; the policy is our signature.

The file's key (``oss://KEY`` in the request that follows) decides the id of the medium that it becomes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from dataclasses import replace
from typing import Any

from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

from model.tasks import short
from serving.gateway.doorkeeper import Principal
from serving.gateway.errors import ApiError, invalid_argument
from serving.gateway.http.base import Call, base_url
from serving.gateway.http.dashscope_input import media_id
from serving.gateway.http.dashscope_models import request_id
from serving.gateway.http.forms import add_upload, read_form
from serving.gateway.http.signing import signer
from serving.jobs.errors import StoreError

PURPOSE = "dashscope-upload"
POLICY_SECONDS = 600
MAX_KEY_CHARS = 255


async def policy(call: Call) -> Response:
    """GET /api/v1/uploads"""
    if (action := call.request.query_params.get("action")) != "getPolicy":
        raise invalid_argument("action", f"{short(action)} is not getPolicy")
    expires = int(time.time()) + POLICY_SECONDS
    folder = f"zoetrope/{secrets.token_hex(15)}"
    encoded = base64.urlsafe_b64encode(json.dumps([call.who.owner, folder]).encode()).rstrip(b"=").decode()
    signature = (await signer(call.core)).sign(PURPOSE, encoded, expires)
    limit = call.core.settings.max_upload_bytes // 1_000_000
    data = {
        "policy": encoded,
        "signature": signature,
        "upload_dir": folder,
        "upload_host": f"{base_url(call)}/api/v1/uploads/{encoded}?expires={expires}&signature={signature}",
        "expire_in_seconds": POLICY_SECONDS,
        "max_file_size_mb": limit,
        "capacity_limit_mb": limit,
        "oss_access_key_id": "zoetrope",
        "x_oss_object_acl": "private",
        "x_oss_forbid_overwrite": "true",
    }
    return JSONResponse({"request_id": request_id(), "data": data})


async def upload(call: Call) -> Response:
    """POST /api/v1/uploads/{policy}; the policy says for whom."""
    encoded, query = call.path["policy"], call.request.query_params
    check = (await signer(call.core)).check
    check(PURPOSE, encoded, query.get("expires", ""), query.get("signature", ""), time.time())
    owner, folder = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    mine = replace(call, who=Principal(owner))
    async with read_form(mine, max_files=1) as form:
        key, file = form.get("key"), form.get("file")
        if not isinstance(key, str) or not key.startswith(f"{folder}/") or len(key) > MAX_KEY_CHARS:
            raise invalid_argument("key", f"{short(key)} is not {folder}/ and a name, {MAX_KEY_CHARS} in all")
        if not isinstance(file, UploadFile):
            raise invalid_argument("file", "is missing")
        await _store(mine, key, file)
    return Response(status_code=200)


async def _store(call: Call, key: str, file: UploadFile) -> None:
    """Keep the file under the id that the key gives."""
    table, owner, wanted = call.core.stores.media, call.who.owner, media_id(key)
    taken = ApiError("ALREADY_EXISTS", "FILE_EXISTS", f"key: {short(key)} was uploaded before")
    if await asyncio.to_thread(table.get, wanted, owner) is not None:
        raise taken
    added = await add_upload(call, file)
    # Another row of the same file; the file goes when the last row does.
    renamed: Any = replace(added, id=wanted)
    try:
        await asyncio.to_thread(table.begin, renamed)
    except StoreError:
        if await asyncio.to_thread(table.get, wanted, owner) is None:
            raise
        raise taken from None  # by another one, meanwhile
    finally:
        await call.core.desk.delete(owner, added.id)
