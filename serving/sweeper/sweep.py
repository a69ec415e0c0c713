"""Ends what is overdue and deletes what has expired: jobs with their files, media, old messages and trails."""

from __future__ import annotations

import logging

from cluster.shelf import Shelf, SnapshotError
from serving.artifacts import ArtifactError, ArtifactStore
from serving.gateway.media_desk import part_keys
from serving.job_files import STRAY_SECONDS, delete_files, delete_strays
from serving.jobs.open import Stores

BATCH = 100
MESSAGE_SECONDS = 7 * 86_400.0  # that messages are kept after they were delivered or given up, for a replay
log = logging.getLogger("zoetrope.sweeper")


def sweep(stores: Stores, artifacts: ArtifactStore, snapshots: Shelf | None = None) -> int:
    """One round; returns how many jobs and media were deleted. What cannot be deleted now is left for the next round.

    Raises:
        StoreError.
    """
    stores.jobs.fail_overdue()
    # The rows go first, in one transaction: nobody is told of files that are going. What is left of a job is known.
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
    return deleted


def tidy(stores: Stores, artifacts: ArtifactStore, snapshots: Shelf | None = None) -> None:
    """Delete what holders that lost their leases left beside the files of jobs that ended lately, and snapshots of jobs
    that are over. Lists the files of every such job, which a bucket charges for: for longer intervals than `sweep`.

    Raises:
        StoreError.
    """
    if snapshots is not None:
        _discard_snapshots(stores, snapshots)
    for job in stores.jobs.maybe_littered(STRAY_SECONDS):
        try:
            delete_strays(artifacts, job)
        except ArtifactError as error:
            log.warning("job %s: strays may lie among its files: %s", job.id, error)


def _discard_snapshots(stores: Stores, snapshots: Shelf) -> None:
    """Delete those of jobs that have ended or are gone: an engine may write one after the job's end."""
    try:
        written = snapshots.jobs()
        known = stores.jobs.get_many(sorted(written))
        for job_id in sorted(written):
            if job_id not in known or known[job_id].state.final:
                snapshots.discard(job_id)
    except SnapshotError as error:
        log.warning("snapshots of jobs that are over may be left: %s", error)
