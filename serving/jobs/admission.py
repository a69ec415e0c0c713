"""How a new job gets in: replays, limits, media, and the row."""

from __future__ import annotations

from collections.abc import Mapping

from serving.jobs.database import Tx
from serving.jobs.errors import QueueFull, QuotaExceeded, RequestConflict, UnknownMedia
from serving.jobs.job import Job, Limits, NewJob, State
from serving.jobs.migrations import LABEL_CHARS
from serving.jobs.rows import INSERT, Encoded, job_of
from serving.jobs.trail import in_state, queued_by, record

LOCK = "admission"  # nobody else adds to a tally before the commit


def live(key_id: str) -> str:
    """The tally of a key's jobs that have not ended."""
    return f"live {key_id}"


def results_of(owner: str) -> str:
    """The tally of a tenant's results; it counts bytes."""
    return f"results {owner}"


def queue_share(max_queued: int, queued: int, own: int) -> int:
    """How many jobs a tenant may have queued: half of the places that others leave free, so that there is always room
    for one more tenant, and n that want all get an n + 1st each.

    Args:
        queued: by all, ``own`` by this one.
    """
    return -((queued - own - max_queued) // 2)


def admit(tx: Tx, encoded: Encoded, limits: Limits) -> Job:
    """Queue a job, or return the one that an earlier request with its id made. Needs `LOCK`."""
    new = encoded.new
    refusal = _refusal(tx, new, limits) or _missing(tx, new.owner, encoded.media)
    if refusal is not None:
        known = _known(tx, new)
        if known is None:
            raise refusal
        return known
    now = tx.now()
    if tx.run(INSERT, encoded.values(now)) == 0:
        known = _known(tx, new)
        if known is None:
            raise AssertionError(f"job {new.id} conflicts with a request that does not exist")
        return known
    put_labels(tx, new.id, new.owner, new.labels, now)
    for media_id in encoded.media:
        tx.run("INSERT INTO job_media (job_id, media_id) VALUES (?, ?)", (new.id, media_id))
    record(tx, "created", None, State.QUEUED, "client", at=now, job_id=new.id, owner=new.owner)
    if new.key_id is not None:
        tx.count(live(new.key_id), 1, new.seconds)
    return encoded.job(now)


def put_labels(tx: Tx, job_id: str, owner: str, labels: Mapping[str, str], created_at: float) -> None:
    """Note a new job's labels, or a job's new labels once those before are gone, for lists by them."""
    for key, value in labels.items():
        tx.run(
            "INSERT INTO job_label (job_id, owner, key, value, created_at) VALUES (?, ?, ?, ?, ?)",
            (job_id, owner, key[:LABEL_CHARS], value[:LABEL_CHARS], created_at),
        )


def _known(tx: Tx, new: NewJob) -> Job | None:
    if new.request_id is None:
        return None
    row = tx.one("SELECT * FROM job WHERE owner = ? AND request_id = ?", (new.owner, new.request_id))
    if row is None:
        return None
    if row["fingerprint"] != new.fingerprint:
        raise RequestConflict(new.request_id)
    return job_of(row)


def _refusal(tx: Tx, new: NewJob, limits: Limits) -> Exception | None:
    queued = tx.tally(in_state(State.QUEUED))[0]
    if queued >= limits.max_queued:
        return QueueFull(limits.max_queued)
    if limits.result_bytes is not None:
        kept = tx.tally(results_of(new.owner))[0]
        if kept >= limits.result_bytes:
            return QuotaExceeded("result_bytes", limits.result_bytes, kept)
    if new.key_id is not None:  # without keys there is one tenant
        own = tx.tally(queued_by(new.owner))[0]
        share = queue_share(limits.max_queued, queued, own)
        if own >= share:
            return QuotaExceeded("queued_jobs", share, own)
    if new.key_id is None or (limits.concurrent_jobs is None and limits.queued_seconds is None):
        return None
    jobs, seconds = tx.tally(live(new.key_id))
    if limits.concurrent_jobs is not None and jobs >= limits.concurrent_jobs:
        return QuotaExceeded("concurrent_jobs", limits.concurrent_jobs, jobs)
    if limits.queued_seconds is not None and round(seconds + new.seconds, 3) > limits.queued_seconds:
        return QuotaExceeded("queued_seconds", limits.queued_seconds, seconds)
    return None


def _missing(tx: Tx, owner: str, media: tuple[str, ...]) -> Exception | None:
    if not media:
        return None
    among, value = tx.among("id", media)
    # Held until the commit, so that none is deleted before the job's use of it shows.
    rows = tx.all(
        f"SELECT id FROM media WHERE owner = ? AND state = 'ready' AND {among} ORDER BY id{tx.dialect.for_share}",
        (owner, value),
    )
    found = {row["id"] for row in rows}
    return next((UnknownMedia(media_id) for media_id in media if media_id not in found), None)
