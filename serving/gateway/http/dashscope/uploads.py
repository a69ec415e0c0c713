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

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument
from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.gateway.http.common.forms import add_upload, read_form
from zoetrope.serving.gateway.http.common.signed_urls import signer
from zoetrope.serving.gateway.http.dashscope.inputs import media_id
from zoetrope.serving.jobs.db.errors import StoreError

PURPOSE = "dashscope-upload-2"  # counted up whenever the contents of a policy change
POLICY_SECONDS = 600
MAX_KEY_CHARS = 255


async def policy(call: HttpCall) -> dict[str, Any]:
    """Return what the SDK needs to post one file."""
    expires = int(time.time()) + POLICY_SECONDS
    folder = f"zoetrope/{secrets.token_hex(15)}"
    granted = json.dumps([call.who.owner, folder, call.who.key_id])
    encoded = base64.urlsafe_b64encode(granted.encode()).rstrip(b"=").decode()
    signature = (await signer(call.core)).sign(PURPOSE, encoded, expires)
    limit = call.core.settings.max_upload_bytes // 1_000_000
    return {
        "policy": encoded,
        "signature": signature,
        "upload_dir": folder,
        "upload_host": f"{call.base_url}/api/v1/uploads/{encoded}?expires={expires}&signature={signature}",
        "expire_in_seconds": POLICY_SECONDS,
        "max_file_size_mb": limit,
        "capacity_limit_mb": limit,
        "oss_access_key_id": "zoetrope",
        "x_oss_object_acl": "private",
        "x_oss_forbid_overwrite": "true",
    }


async def receive(call: HttpCall, encoded: str, expires: str, signature: str) -> None:
    """Keep the file of a form for the tenant that the policy names.

    Raises:
        ApiError: the policy is not one of this service, its time is over, its key was revoked, or the form lacks
            something.
    """
    (await signer(call.core)).check(PURPOSE, encoded, expires, signature, time.time())
    owner, folder, key_id = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    revoked = [] if key_id is None else await asyncio.to_thread(call.core.stores.keys.revoked, [key_id])
    if revoked:
        raise ApiError("PERMISSION_DENIED", "KEY_REVOKED", "policy: the key that asked for it was revoked")
    mine = replace(call, who=Principal(owner))
    async with read_form(mine, max_files=1) as form:
        key, file = form.get("key"), form.get("file")
        if not isinstance(key, str) or not key.startswith(f"{folder}/") or len(key) > MAX_KEY_CHARS:
            raise invalid_argument("key", f"{short(key)} is not {folder}/ and a name, {MAX_KEY_CHARS} in all")
        if not isinstance(file, UploadFile):
            raise invalid_argument("file", "is missing")
        await _store(mine, key, file)


async def _store(call: HttpCall, key: str, file: UploadFile) -> None:
    """Keep the file under the id that the key gives."""
    table, owner, wanted = call.core.stores.media, call.who.owner, media_id(key)
    taken = ApiError("ALREADY_EXISTS", "FILE_EXISTS", f"key: {short(key)} was uploaded before")
    if await asyncio.to_thread(table.get, wanted, owner) is not None:
        raise taken
    added = await add_upload(call, file)
    # Another row of the same file; the file goes when the last row does.
    renamed: Any = replace(added, id=wanted)
    try:
        await asyncio.to_thread(table.create, renamed)
    except StoreError:
        if await asyncio.to_thread(table.get, wanted, owner) is None:
            raise
        raise taken from None  # by another one, meanwhile
    finally:
        await call.core.client_media.delete(owner, added.id)
