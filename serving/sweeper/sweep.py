"""End what is overdue and delete what has expired: jobs with their files, media, old messages and audit logs."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from zoetrope.cluster.snapshots.objects import SnapshotError, SnapshotObjects
from zoetrope.cluster.telemetry.metrics import SWEPT
from zoetrope.serving.jobs.open import Stores
from zoetrope.serving.storage.job_files import RECENT_SECONDS, STRAY_SECONDS, delete_files, delete_strays
from zoetrope.serving.storage.store import ArtifactError, ArtifactStore
from zoetrope.serving.storage.upload_parts import part_keys

BATCH = 100
MESSAGE_SECONDS = 7 * 86_400.0  # how long messages are kept after delivery or giving up, for a replay
SNAPSHOT_AGE = timedelta(days=7)  # older ones are left over from jobs whose snapshots were never deleted
log = logging.getLogger("zoetrope.sweeper")


def sweep(stores: Stores, artifacts: ArtifactStore, snapshots: SnapshotObjects | None = None) -> int:
    """Sweep once. What cannot be deleted now is left for the next round.

    Returns:
        How many jobs and media were deleted.

    Raises:
        StoreError: the database does not answer.
    """
    stores.jobs.fail_overdue()
    # The rows go first, in one transaction, so that nobody is offered files being deleted; `deleted` lists the rest.
    deleted = stores.jobs.delete_expired(BATCH)
    for job in stores.jobs.deleted(BATCH):
        try:
            delete_files(artifacts, job.id, job.keys)
            if snapshots is not None:
                snapshots.discard(job.id)
        except (ArtifactError, SnapshotError) as error:
            log.warning("job %s: its files cannot be deleted yet: %s", job.id, error)
            continue
        stores.jobs.files_deleted(job.id, STRAY_SECONDS)
    for media, key in stores.media.expired(BATCH):
        keys = [key] if key is not None else []
        if media.state == "uploading":
            keys += part_keys(media)
        try:
            artifacts.delete(keys)
        except ArtifactError as error:
            log.warning("medium %s: its file stays behind: %s", media.id, error)
        deleted += 1
    stores.outbox.forget(MESSAGE_SECONDS)
    stores.jobs.forget_events()
    SWEPT.inc(deleted)
    return deleted


def tidy(stores: Stores, artifacts: ArtifactStore, snapshots: SnapshotObjects | None = None) -> None:
    """Delete stray files that holders without a lease left among those of jobs that ended lately, and snapshots of jobs
    that are over. It lists the files of every such job, which a bucket charges for, so it runs less often than `sweep`.

    Raises:
        StoreError: the database does not answer.
    """
    if snapshots is not None:
        _discard_snapshots(stores, snapshots)
    for job in stores.jobs.maybe_littered(STRAY_SECONDS, RECENT_SECONDS):
        try:
            delete_strays(artifacts, job)
        except ArtifactError as error:
            log.warning("job %s: strays may lie among its files: %s", job.id, error)


def discard_old(snapshots: SnapshotObjects) -> None:
    """Delete snapshots that are older than any job runs, which nothing else finds."""
    try:
        snapshots.discard_older(datetime.now(UTC) - SNAPSHOT_AGE)
    except SnapshotError as error:
        log.warning("old snapshots may be left: %s", error)


def _discard_snapshots(stores: Stores, snapshots: SnapshotObjects) -> None:
    """Delete snapshots of jobs that have ended or are gone: an engine may write one after the job's end."""
    try:
        written = snapshots.jobs()
        known = stores.jobs.get_many(sorted(written))
        for job_id in sorted(written):
            if job_id not in known or known[job_id].state.final:
                snapshots.discard(job_id)
    except SnapshotError as error:
        log.warning("snapshots of jobs that are over may be left: %s", error)
