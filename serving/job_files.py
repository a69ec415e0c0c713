"""What a job has left in the artifact store: its video and latents, pictures of it in the making, strays."""

from __future__ import annotations

from collections.abc import Iterable

from serving.artifacts import ArtifactStore
from serving.jobs.job import Job, file_keys

STRAY_SECONDS = 3_600.0  # after a job's end in which a holder that lost its lease may still write a file


def delete_files(artifacts: ArtifactStore, job_id: str, keys: Iterable[str]) -> None:
    """Delete all that a job has, also what a holder that lost its lease left. Can be repeated.

    Args:
        keys: that its row names, wherever they lie.

    Raises:
        ArtifactError: something is left.
    """
    artifacts.delete(sorted({*_below(artifacts, job_id), *keys}))


def delete_strays(artifacts: ArtifactStore, job: Job) -> None:
    """Delete what lies among a job's files and is none of them.

    Raises:
        ArtifactError: something is left.
    """
    artifacts.delete(sorted(_below(artifacts, job.id) - {*file_keys(job)}))


def _below(artifacts: ArtifactStore, job_id: str) -> set[str]:
    return set(artifacts.below(f"jobs/{job_id}"))
