"""End what is overdue and delete what has expired: jobs with their files, media, old messages and audit logs."""

from __future__ import annotations

import logging
import time
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
BROKEN_SECONDS = 20.0  # of a round, after which its first error ends it: a store that is away takes long to say so
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
    deleted, broken_off = stores.jobs.delete_expired(BATCH), time.monotonic() + BROKEN_SECONDS
    for job in stores.jobs.deleted(BATCH):
        try:
            delete_files(artifacts, job.id, job.keys)
            if snapshots is not None:
                snapshots.discard(job.id)
        except (ArtifactError, SnapshotError) as error:
            log.warning("job %s: its files cannot be deleted yet: %s", job.id, error)
            if time.monotonic() > broken_off:
                break
            continue
        stores.jobs.files_deleted(job.id, STRAY_SECONDS)
    # Whose files cannot be deleted is forgotten all the same, so that few are taken from a store that does not answer.
    for media, key in stores.media.expired(BATCH if time.monotonic() < broken_off else 0):
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
    broken_off = time.monotonic() + BROKEN_SECONDS
    for job in stores.jobs.maybe_littered(STRAY_SECONDS, RECENT_SECONDS):
        try:
            delete_strays(artifacts, job)
        except ArtifactError as error:
            log.warning("job %s: strays may lie among its files: %s", job.id, error)
            if time.monotonic() > broken_off:
                break


def discard_old(snapshots: SnapshotObjects) -> None:
    """Delete snapshots that are older than any job runs, which nothing else finds."""
    try:
        snapshots.discard_older(datetime.now(UTC) - SNAPSHOT_AGE)
    except SnapshotError as error:
        log.warning("old snapshots may be left: %s", error)


def _discard_snapshots(stores: Stores, snapshots: SnapshotObjects) -> None:
    """Delete snapshots of jobs that have ended: an engine may write one after the job's end. Those of jobs that this
    database does not know may be another service's, which has the same store; `discard_old` deletes them by their
    age."""
    try:
        written = snapshots.jobs()
        known = stores.jobs.get_many(sorted(written))
        for job_id in sorted(written):
            if job_id in known and known[job_id].state.final:
                snapshots.discard(job_id)
    except SnapshotError as error:
        log.warning("snapshots of jobs that are over may be left: %s", error)
