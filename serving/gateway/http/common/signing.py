"""Sign things for a while (HMAC-SHA256). Imports no web code, for the sweeper signs URLs in webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.key_table import RESERVED
from zoetrope.serving.jobs.outbox import Outbox

# The database keeps a secret for each tenant; this one's tenant is the gateway itself, so that all gateways agree.
TENANT = RESERVED + "signed-addresses"
VIDEO = "video"
URL_SECONDS = 24 * 3_600.0


@dataclass(frozen=True)
class Signer:
    """Signs a subject for one purpose and until a time; the signature is no good for another of either."""

    key: bytes

    def sign(self, purpose: str, subject: str, expires: int) -> str:
        """Return letters, digits, '-' and '_'. ``expires``: seconds since the epoch."""
        message = f"{purpose}\n{subject}\n{expires}".encode()
        return base64.urlsafe_b64encode(hmac.digest(self.key, message, hashlib.sha256)).rstrip(b"=").decode()

    def check(self, purpose: str, subject: str, expires: str, signature: str, now: float) -> None:
        """Check a signature, in constant time and as it is written: no other spelling of its bytes is accepted.

        Raises:
            ApiError: PERMISSION_DENIED: this service did not sign it for this, or its time is over.
        """
        well_formed = expires.isascii() and expires.isdigit() and len(expires) <= 12
        right = well_formed and hmac.compare_digest(
            self.sign(purpose, subject, int(expires)).encode(), signature.encode(errors="replace")
        )
        if not right:
            raise ApiError("PERMISSION_DENIED", "WRONG_SIGNATURE", "signature: was not made by this service for this")
        if now >= int(expires):
            raise ApiError("PERMISSION_DENIED", "ADDRESS_EXPIRED", "expires: this URL has expired")

    def video_url(self, job: Job, base_url: str, filename: str = "") -> str | None:
        """Return where this service gives the video to anybody for a day, or until it is deleted; None while there is
        none.

        Args:
            filename: for the end of the URL's path; "": none.
        """
        if job.state is not State.SUCCEEDED or job.result is None:
            return None
        return base_url + self.video_path(job.id, int(expiry(job)), filename)

    def video_path(self, job_id: str, expires: int, filename: str = "") -> str:
        """Return the path of such a URL. ``expires``: seconds since the epoch."""
        query = urlencode({"expires": expires, "signature": self.sign(VIDEO, job_id, expires)})
        end = f"/{filename}" if filename else ""
        return f"/files/{job_id}{end}?{query}"


def expiry(job: Job) -> float:
    """Return until when a URL of a job's video is good, in seconds since the epoch."""
    until = time.time() + URL_SECONDS
    return until if job.expire_at is None else min(until, job.expire_at)


def open_signer(outbox: Outbox) -> Signer:
    """Return this service's signer; its key is random and lies in the job database.

    Raises:
        StoreError.
    """
    return Signer(hashlib.sha256(outbox.secret(TENANT).encode()).digest())
