"""Queues new jobs: replays, limits, media and the row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from zoetrope.serving.jobs.audit_log import in_state, queued_by, record
from zoetrope.serving.jobs.db.database import Tx
from zoetrope.serving.jobs.db.migrations import LABEL_CHARS
from zoetrope.serving.jobs.db.records import columns, from_row, insert, to_values
from zoetrope.serving.jobs.errors import BacklogFull, QueueFull, QuotaExceeded, RequestConflict, UnknownMedia
from zoetrope.serving.jobs.job import Job, JobRequest, NewJob, QueueLimits, State

LOCK = "admission"  # nobody else changes a tally before the commit
_INSERT = (
    insert("job", (*columns(NewJob), "kind", "state", "created_at"))
    + " ON CONFLICT (owner, request_id) WHERE request_id IS NOT NULL DO NOTHING"
)


@dataclass(frozen=True)
class EncodedJob:
    """A new job as it is stored and read, except for its time of creation."""

    new: NewJob
    values: tuple[Any, ...]
    job: Job

    @classmethod
    def of(cls, new: NewJob) -> EncodedJob:
        """Encode a new job. Done before the transaction, because others wait for that.

        Raises:
            TypeError: the spec, the origin or a verdict is not JSON.
        """
        values, task = to_values(replace(new, media=tuple(dict.fromkeys(new.media)))), new.spec.get("task")
        kind = str(task.get("kind", "")) if isinstance(task, dict) else ""
        job = Job(**vars(from_row(JobRequest, values)), state=State.QUEUED, created_at=0.0)
        return cls(new, (*values.values(), kind, str(State.QUEUED)), job)


def live(key_id: str) -> str:
    """Name the tally of a key's jobs that have not ended."""
    return f"live {key_id}"


def results_of(owner: str) -> str:
    """Name the tally of a tenant's results; it counts bytes."""
    return f"results {owner}"


def priced(model: str, owner: str | None = None) -> str:
    """Name the tally of a model's jobs that have not ended, all or a tenant's; it counts GPU-seconds of prices."""
    return f"priced {model}" if owner is None else f"priced {model} {owner}"


def gpu_share(most: float, queued: float, own: float) -> float:
    """Return how many GPU-seconds of a model's jobs a tenant may have: half of what others leave, as `queue_share`.

    Args:
        queued: of all tenants. own: of this one.
    """
    return max(0.0, (most - (queued - own)) / 2)


def queue_share(max_queued: int, queued: int, own: int) -> int:
    """Return how many jobs a tenant may have queued: half of the places that others leave free, so that there is always
    room for one more tenant, and n tenants that want everything get 1 / (n + 1) each.

    Args:
        queued: jobs queued by all tenants. own: by this one.
    """
    return -((queued - own - max_queued) // 2)


def enqueue_job(tx: Tx, encoded: EncodedJob, limits: QueueLimits) -> Job:
    """Queue a job, or return the one that an earlier request with its request id created. Needs `LOCK`."""
    new = encoded.new
    refusal = _refusal(tx, new, limits) or _missing(tx, new.owner, encoded.job.media)
    if refusal is not None:
        known = _known(tx, new)
        if known is None:
            raise refusal
        return known
    now = tx.now()
    if tx.run(_INSERT, (*encoded.values, now)) == 0:
        known = _known(tx, new)
        if known is None:
            raise AssertionError(f"job {new.id} conflicts with a request that does not exist")
        return known
    job = replace(encoded.job, created_at=now)
    put_labels(tx, job)
    for media_id in job.media:
        tx.run(insert("job_media", ("job_id", "media_id")), (job.id, media_id))
    record(tx, job, "created", None, State.QUEUED, "client", at=now)
    if job.key_id is not None:
        tx.count(live(job.key_id), 1, job.seconds)
    count_price(tx, job, 1)
    return job


def count_price(tx: Tx, job: Job, change: int) -> None:
    """Count a job's price, if it has one, from when it is queued (1) until it has ended (-1)."""
    if job.price <= 0:
        return
    for name in (priced(job.model), priced(job.model, job.owner)):
        tx.count(name, change, change * job.price)


def check_job(tx: Tx, encoded: EncodedJob, limits: QueueLimits) -> None:
    """Raise what `enqueue_job` would raise for a job's limits and media. Needs `LOCK`."""
    refusal = _refusal(tx, encoded.new, limits) or _missing(tx, encoded.new.owner, encoded.job.media)
    if refusal is not None:
        raise refusal


def put_labels(tx: Tx, job: Job) -> None:
    """Index a job's labels for lists by them."""
    sql = insert("job_label", ("job_id", "owner", "key", "value", "created_at"))
    for key, value in job.labels.items():
        tx.run(sql, (job.id, job.owner, key[:LABEL_CHARS], value[:LABEL_CHARS], job.created_at))


def _known(tx: Tx, new: NewJob) -> Job | None:
    if new.request_id is None:
        return None
    row = tx.one("SELECT * FROM job WHERE owner = ? AND request_id = ?", (new.owner, new.request_id))
    if row is None:
        return None
    if row["fingerprint"] != new.fingerprint:
        raise RequestConflict(new.request_id)
    if row["weights"] and new.weights and row["weights"] != new.weights:  # "": an older release, or no files there
        raise RequestConflict(new.request_id, f"when {new.model} had other weights")
    return from_row(Job, row)


def _refusal(tx: Tx, new: NewJob, limits: QueueLimits) -> Exception | None:
    queued = tx.tally(in_state(State.QUEUED))[0]
    if queued >= limits.max_queued:
        return QueueFull(limits.max_queued, limits.retry_seconds)
    if (full := _backlog_full(tx, new, limits)) is not None:
        return full
    if limits.result_bytes is not None:
        kept = tx.tally(results_of(new.owner))[0]
        if kept >= limits.result_bytes:
            return QuotaExceeded("result_bytes", limits.result_bytes, kept)
    if new.key_id is not None:  # without keys there is only one tenant
        own = tx.tally(queued_by(new.owner))[0]
        share = queue_share(limits.max_queued, queued, own)
        if own >= share:
            return QuotaExceeded("queued_jobs", share, own, limits.retry_seconds)
    if new.key_id is None or (limits.concurrent_jobs is None and limits.queued_seconds is None):
        return None
    jobs, seconds = tx.tally(live(new.key_id))
    if limits.concurrent_jobs is not None and jobs >= limits.concurrent_jobs:
        return QuotaExceeded("concurrent_jobs", limits.concurrent_jobs, jobs, limits.retry_seconds)
    if limits.queued_seconds is not None and round(seconds + new.seconds, 3) > limits.queued_seconds:
        return QuotaExceeded("queued_seconds", limits.queued_seconds, seconds, limits.retry_seconds)
    return None


def _backlog_full(tx: Tx, new: NewJob, limits: QueueLimits) -> BacklogFull | None:
    """Whether a job is too much for its model's backlog, or its tenant's share of it. The first job of all, and the
    first of a tenant, is never too large: it would have to wait for ever."""
    if limits.gpu_seconds is None or new.price <= 0:
        return None
    total, own = tx.tally(priced(new.model))[1], tx.tally(priced(new.model, new.owner))[1]
    found: list[tuple[float, float, bool]] = []
    if total > 0 and total + new.price > limits.gpu_seconds:
        found.append((limits.gpu_seconds, total, False))
    share = gpu_share(limits.gpu_seconds, total, own)
    if new.key_id is not None and own > 0 and own + new.price > share:  # without keys there is only one tenant
        found.append((share, own, True))
    for limit, used, mine in found:
        after = (used + new.price - limit) / limits.gpus if limits.gpus else None
        return BacklogFull(new.model, limit, used, new.price, after, mine)
    return None


def _missing(tx: Tx, owner: str, media: tuple[str, ...]) -> Exception | None:
    if not media:
        return None
    among, value = tx.among("id", media)
    # Locked until the commit, so that none is deleted before the job's use of it is visible.
    rows = tx.all(
        f"SELECT id FROM media WHERE owner = ? AND state = 'ready' AND {among} ORDER BY id{tx.dialect.for_share}",
        (owner, value),
    )
    found = {row["id"] for row in rows}
    return next((UnknownMedia(media_id) for media_id in media if media_id not in found), None)
