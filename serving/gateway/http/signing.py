"""Addresses that need no key: signed for one thing and a while (HMAC-SHA256)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.responses import Response

from serving.gateway.core import Core, JobNotFound
from serving.gateway.errors import ApiError
from serving.gateway.http.base import Call, Endpoint, file_response
from serving.jobs.job import Job, State
from serving.jobs.key_table import RESERVED

# The database keeps a secret for each tenant; this one's tenant is the gateway itself, so that all gateways agree.
TENANT = RESERVED + "signed-addresses"
VIDEO = "video"
ADDRESS_SECONDS = 24 * 3_600.0


@dataclass(frozen=True)
class Signer:
    """Signs what a purpose is and until when; what it signed for one purpose is no good for another."""

    key: bytes

    def sign(self, purpose: str, subject: str, expires: int) -> str:
        """Letters, digits, '-' and '_'. ``expires``: seconds since the epoch."""
        message = f"{purpose}\n{subject}\n{expires}".encode()
        return base64.urlsafe_b64encode(hmac.digest(self.key, message, hashlib.sha256)).rstrip(b"=").decode()

    def check(self, purpose: str, subject: str, expires: str, signature: str, now: float) -> None:
        """
        Raises:
            ApiError: PERMISSION_DENIED: it was not signed by us for this, or its time is over.
        """
        well_formed = expires.isascii() and expires.isdigit() and len(expires) <= 12
        right = well_formed and hmac.compare_digest(
            self.sign(purpose, subject, int(expires)).encode(), signature.encode(errors="replace")
        )
        if not right:
            raise ApiError("PERMISSION_DENIED", "WRONG_SIGNATURE", "signature: is not one of this service for this")
        if now >= int(expires):
            raise ApiError("PERMISSION_DENIED", "ADDRESS_EXPIRED", "expires: this address is no longer good")


async def signer(core: Core) -> Signer:
    """Of this service; its key is random and lies in the job database.

    Raises:
        StoreError.
    """
    secret = await asyncio.to_thread(core.stores.outbox.secret, TENANT)
    return Signer(hashlib.sha256(secret.encode()).digest())


async def video_address(core: Core, job: Job, base_url: str) -> str | None:
    """Where anybody can GET the video for a day, or until it is deleted; None while there is none. The artifact
    store's own address where that signs."""
    if job.state is not State.SUCCEEDED or job.result is None:
        return None
    now = time.time()
    until = now + ADDRESS_SECONDS if job.expire_at is None else min(now + ADDRESS_SECONDS, job.expire_at)
    stored = await asyncio.to_thread(core.artifacts.sign, job.result["video"]["key"], max(1.0, until - now))
    if stored is not None:
        return stored
    expires = int(until)
    signature = (await signer(core)).sign(VIDEO, job.id, expires)
    return f"{base_url}/files/{job.id}?{urlencode({'expires': expires, 'signature': signature})}"


async def signed_video(call: Call) -> Response:
    """GET /files/{job_id}"""
    job_id, query = call.path["job_id"], call.request.query_params
    check = (await signer(call.core)).check
    check(VIDEO, job_id, query.get("expires", ""), query.get("signature", ""), time.time())
    jobs = await asyncio.to_thread(call.core.stores.jobs.get_many, [job_id])
    if job_id not in jobs:
        raise JobNotFound(job_id)
    return file_response(call, jobs[job_id])


ENDPOINTS = (
    Endpoint(
        "GET",
        "/files/{job_id}",
        signed_video,
        "A finished video or picture by its signed address; honours Range.",
        answer_type="*/*",
        query=(("expires", "seconds since the epoch"), ("signature", "as this service gave it")),
        open=True,
    ),
)
