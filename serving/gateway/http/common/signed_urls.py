"""URLs that need no key: signed for one thing and a while."""

from __future__ import annotations

import asyncio
import time
from weakref import WeakKeyDictionary

from zoetrope.serving.gateway.core.core import Core, JobNotFound
from zoetrope.serving.gateway.http.common.signing import VIDEO, Signer, expiry, open_signer
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.outbox import Outbox

# Read once: the secret never changes, and pages of jobs are asked for again and again.
_signers: WeakKeyDictionary[Outbox, Signer] = WeakKeyDictionary()


async def signer(core: Core) -> Signer:
    """Return this service's signer.

    Raises:
        StoreError.
    """
    outbox = core.stores.outbox
    if outbox not in _signers:
        _signers[outbox] = await asyncio.to_thread(open_signer, outbox)
    return _signers[outbox]


async def video_url(core: Core, job: Job, base_url: str) -> str | None:
    """Return where anybody can GET the video for a day, or until it is deleted; None while there is none. It is the
    artifact store's own URL, if the store signs."""
    if job.state is not State.SUCCEEDED or job.result is None:
        return None
    seconds = max(1.0, expiry(job) - time.time())
    stored = await asyncio.to_thread(core.artifacts.sign, job.result["video"]["key"], seconds)
    return stored if stored is not None else (await signer(core)).video_url(job, base_url)


async def signed_job(core: Core, job_id: str, expires: str, signature: str) -> Job:
    """Return the job whose video a URL gives.

    Raises:
        ApiError: PERMISSION_DENIED: the URL was not signed by this service, or has expired.
        JobNotFound.
    """
    (await signer(core)).check(VIDEO, job_id, expires, signature, time.time())
    jobs = await asyncio.to_thread(core.stores.jobs.get_many, [job_id])
    if job_id not in jobs:
        raise JobNotFound(job_id)
    return jobs[job_id]
