"""Where snapshots lie: a directory or an object store, by way of obstore. Needs no torch.

Keys are ``snapshots/{job}/{segment}/...``; what is in them is `cluster.snapshots`' matter.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

ROOT = "snapshots"
JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class SnapshotError(Exception):
    """The store cannot be read or written; one line."""


class Shelf:
    """The snapshots of all jobs as files. Safe to use from several threads and processes."""

    def __init__(self, url: str) -> None:
        """Open or create.

        Args:
            url: a path or ``file://`` of a directory, ``memory://`` for this object alone, or what obstore knows: ``s3://``,
                ``gs://``, ``az://``, with credentials from the environment.

        Raises:
            SnapshotError: it cannot be opened.
        """
        scheme = urlsplit(url).scheme if "://" in url else "file"
        self._directory = Path(unquote(urlsplit(url).path)) if url.startswith("file://") else Path(url)
        self._local = scheme == "file"
        try:
            self.objects: ObjectStore = (
                LocalStore(self._directory, mkdir=True, automatic_cleanup=True) if self._local else from_url(url)
            )
        except (BaseError, OSError, ValueError) as error:
            raise SnapshotError(f"cannot open the snapshots at {url}: {_first_line(error)}") from error

    def discard(self, job: str) -> None:
        """Delete all of a job's, whatever their epoch.

        Raises:
            ValueError: the id is malformed.
            SnapshotError: they cannot be deleted.
        """
        folder = f"{ROOT}/{checked_job(job)}"
        self.delete([path for path, _ in self.list_keys(folder)])
        if self._local:  # what killed writers left unfinished, which is not listed
            shutil.rmtree(self._directory / folder, ignore_errors=True)

    def jobs(self) -> set[str]:
        """Ids of the jobs that have snapshots.

        Raises:
            SnapshotError: they cannot be listed.
        """
        return {path.split("/")[1] for path, _ in self.list_keys(ROOT) if path.count("/") > 1}

    def discard_older(self, than: datetime) -> int:
        """Delete what was written before a time (aware of its zone): left by engines that outlived their jobs.

        Returns:
            How many.

        Raises:
            SnapshotError: they cannot be listed or deleted.
        """
        old = [path for path, written in self.list_keys(ROOT) if written < than]
        self.delete(old)
        return len(old)

    def remove_unfinished(self, prefix: str) -> None:
        """Delete what killed writers left below a prefix; object stores never show such. One that still writes fails.

        Raises:
            SnapshotError: they cannot be deleted.
        """
        if self._local:
            with named_errors(prefix):
                for path in (self._directory / prefix).glob("*#*"):  # obstore's names until all is written
                    path.unlink(missing_ok=True)

    def list_keys(self, prefix: str) -> list[tuple[str, datetime]]:
        with named_errors(prefix):
            return [
                (meta["path"], meta["last_modified"]) for page in obstore.list(self.objects, prefix) for meta in page
            ]

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            try:
                with named_errors(key):
                    obstore.delete(self.objects, key)
            except FileNotFoundError:
                continue


def checked_job(job: str) -> str:
    if not JOB.fullmatch(job):
        raise ValueError(f"job is {job!r}: an id has 1 to 128 of A-Z, a-z, 0-9, - and _, a letter or digit first")
    return job


@contextmanager
def named_errors(key: str) -> Iterator[None]:
    """Turn what obstore and the file system raise into SnapshotErrors with the key; a missing key stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        raise SnapshotError(f"snapshot {key}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """obstore appends a debug dump to its messages."""
    return str(error).strip().partition("\n")[0]
