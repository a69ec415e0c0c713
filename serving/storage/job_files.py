"""A job's files in the artifact store: its video and latents, previews, and strays."""

from __future__ import annotations

from collections.abc import Iterable

from zoetrope.serving.jobs.job import Job, file_keys
from zoetrope.serving.storage.store import ArtifactStore

RECENT_SECONDS = 600.0  # after a job's end, during which its folder is checked whoever held it
STRAY_SECONDS = 3_600.0  # after a job's end, during which a holder that lost its lease may still write a file


def delete_files(artifacts: ArtifactStore, job_id: str, keys: Iterable[str]) -> None:
    """Delete all files of a job, including those of holders that lost their leases. May be repeated.

    Args:
        keys: of the files that its row names, wherever they are.

    Raises:
        ArtifactError: something is left.
    """
    artifacts.delete(sorted({*_below(artifacts, job_id), *keys}))


def delete_strays(artifacts: ArtifactStore, job: Job) -> None:
    """Delete the files in a job's folder that its row does not name.

    Raises:
        ArtifactError: something is left.
    """
    artifacts.delete(sorted(_below(artifacts, job.id) - {*file_keys(job)}))


def _below(artifacts: ArtifactStore, job_id: str) -> set[str]:
    return set(artifacts.below(f"jobs/{job_id}"))
