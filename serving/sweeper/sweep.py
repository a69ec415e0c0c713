"""Ends what is overdue and deletes what has expired: jobs with their files, media, old messages and trails."""

from __future__ import annotations

import logging

from serving.artifacts import ArtifactError, ArtifactStore
from serving.gateway.media_desk import part_keys
from serving.job_files import delete_files, delete_strays
from serving.jobs.open import Stores

BATCH = 100
STRAY_SECONDS = 3_600.0  # after a job's end in which a holder that lost its lease may still write a file
MESSAGE_SECONDS = 7 * 86_400.0  # that messages are kept after they were delivered or given up, for a replay
log = logging.getLogger("zoetrope.sweeper")


def sweep(stores: Stores, artifacts: ArtifactStore) -> int:
    """One round; returns how many jobs and media were deleted. What cannot be deleted now is left for the next round.

    Raises:
        StoreError.
    """
    stores.jobs.fail_overdue()
    deleted = 0
    for job in stores.jobs.expired(BATCH):
        try:
            delete_files(artifacts, job)
        except ArtifactError as error:
            log.warning("job %s: its files cannot be deleted yet: %s", job.id, error)
            continue
        # The row goes last, so that a sweeper that dies in between leaves nothing that nobody knows of.
        deleted += stores.jobs.delete_expired(job.id)
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


def tidy(stores: Stores, artifacts: ArtifactStore) -> None:
    """Delete what holders that lost their leases left beside the files of jobs that ended lately. Lists the files of
    every such job, which a bucket charges for: for longer intervals than `sweep`.

    Raises:
        StoreError.
    """
    for job in stores.jobs.maybe_littered(STRAY_SECONDS):
        try:
            delete_strays(artifacts, job)
        except ArtifactError as error:
            log.warning("job %s: strays may lie among its files: %s", job.id, error)
