"""What a job has left in the artifact store: its video and latents, pictures of it in the making, strays."""

from __future__ import annotations

from serving.artifacts import ArtifactStore
from serving.jobs.job import Job


def delete_files(artifacts: ArtifactStore, job: Job) -> None:
    """Delete all that a job has, also what a holder that lost its lease left. Can be repeated.

    Raises:
        ArtifactError: something is left.
    """
    artifacts.delete(sorted({*_below(artifacts, job), *_known(job)}))


def delete_strays(artifacts: ArtifactStore, job: Job) -> None:
    """Delete what lies among a job's files and is none of them.

    Raises:
        ArtifactError: something is left.
    """
    artifacts.delete(sorted(_below(artifacts, job) - _known(job)))


def _below(artifacts: ArtifactStore, job: Job) -> set[str]:
    return set(artifacts.below(f"jobs/{job.id}"))


def _known(job: Job) -> set[str]:
    """Keys of the files that the job's row names, wherever they lie."""
    files = [job.result[which] for which in ("video", "latents")] if job.result else []
    keys = {str(file["key"]) for file in files if file}
    return keys if job.preview is None else {*keys, job.preview.key}
