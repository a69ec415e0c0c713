"""The snapshots of all jobs as objects, for those who only list and delete them. Needs no torch.

Keys are ``snapshots/{job}/{segment}/...``; `cluster.snapshots.store` knows the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from zoetrope.cluster.storage.open import STORAGE_ERRORS, error_line, open_objects

ROOT = "snapshots"
JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class SnapshotError(Exception):
    """The store cannot be read or written; one line."""


class SnapshotObjects:
    """The snapshots of all jobs. Safe to use from several threads and processes."""

    def __init__(self, url: str) -> None:
        """Open or create.

        Args:
            url: as `cluster.storage.open.open_objects` takes it.

        Raises:
            SnapshotError: it cannot be opened.
        """
        try:
            self.objects = open_objects(url)
        except (*STORAGE_ERRORS, ValueError) as error:
            scheme, separator, _ = url.partition("://")
            place = f"{scheme}://..." if separator else url  # without what it may say of credentials
            raise SnapshotError(f"cannot open the snapshots at {place}: {error_line(error)}") from error

    def discard(self, job: str) -> None:
        """Delete all snapshots of a job, whatever their epoch.

        Raises:
            ValueError: the id is malformed.
            SnapshotError: they cannot be deleted.
        """
        folder = f"{ROOT}/{checked_job(job)}"
        self.delete(self.list_keys(folder))
        with named_errors(folder):
            self.objects.discard_unfinished(folder)

    def jobs(self) -> set[str]:
        """Return the ids of the jobs that have snapshots; other folders are nobody's.

        Raises:
            SnapshotError: they cannot be listed.
        """
        found = {key.split("/")[1] for key in self.list_keys(ROOT) if key.count("/") > 1}
        return {job for job in found if JOB.fullmatch(job)}

    def discard_older(self, than: datetime) -> int:
        """Delete what was written before a time (aware of its zone): left by engines that outlived their jobs.

        Returns:
            How many.

        Raises:
            SnapshotError: they cannot be listed or deleted.
        """
        old = self.list_keys(ROOT, than)
        self.delete(old)
        return len(old)

    def list_keys(self, folder: str, before: datetime | None = None) -> list[str]:
        """Return the keys below ``folder/``, or those written before a time. Raises SnapshotError."""
        with named_errors(folder):
            return self.objects.list_keys(folder, before)

    def delete(self, keys: list[str]) -> None:
        """Delete what there is of these keys. Raises SnapshotError."""
        for key in keys:
            with named_errors(key):
                self.objects.delete(key)


def checked_job(job: str) -> str:
    """Return a job's id. Raises ValueError where it could not be part of a key."""
    if not JOB.fullmatch(job):
        raise ValueError(f"job is {job!r}: an id has 1 to 128 of A-Z, a-z, 0-9, - and _, a letter or digit first")
    return job


@contextmanager
def named_errors(key: str) -> Iterator[None]:
    """Turn storage errors into SnapshotErrors that name the key; a missing key stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except STORAGE_ERRORS as error:
        raise SnapshotError(f"snapshot {key}: {error_line(error)}") from error
