"""Where snapshots are kept: a directory or an object store, by way of obstore.

Keys are ``snapshots/{job}/{segment}/{epoch}-{step}``, numbers padded with zeros, so that the newest key is the last. A
higher epoch of the job's lease is newer than any step of a lower one: what a holder that lost its lease still writes
does not come before what its successor wrote.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from cluster.messages import Owner
from cluster.snapshots.format import BadSnapshot, DamagedSnapshot, Fingerprint, Snapshot, decode, encode, verify

log = logging.getLogger("zoetrope.snapshots")

ROOT = "snapshots"
KEPT = 2  # of each segment: when the newest is damaged, there is the one before it
LISTINGS = 3  # of one search, when what was listed is gone by the time it is read
JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
MAX_INDEX, MAX_EPOCH, MAX_STEP = 10**4 - 1, 10**10 - 1, 10**6 - 1
NAME = re.compile(r"(\d{10})-(\d{6})")


T = TypeVar("T")


class SnapshotError(Exception):
    """The store cannot be read or written; one line."""


class Entry(NamedTuple):
    """A key and what it says; the newest compares greatest."""

    epoch: int
    step: int
    key: str


class SnapshotStore:
    """Snapshots by segment. One appears whole or not at all. Safe to use from several threads and processes."""

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
            self._store: ObjectStore = (
                LocalStore(self._directory, mkdir=True, automatic_cleanup=True) if self._local else from_url(url)
            )
        except (BaseError, OSError, ValueError) as error:
            raise SnapshotError(f"cannot open the snapshots at {url}: {_first_line(error)}") from error

    def put(self, snapshot: Snapshot) -> str:
        """Write it and delete all but the newest two of the segment; those of a later lease are left alone.

        Returns:
            Its key.

        Raises:
            ValueError: the job's id is malformed, or a number is out of range.
            SnapshotError: it could not be written. That old ones could not be deleted is logged and no error.
        """
        owner, step = snapshot.owner, snapshot.step
        _check("step", step, MAX_STEP)
        key = f"{_prefix(owner)}/{owner.epoch:010d}-{step:06d}"
        with _named_errors(key):
            obstore.put(self._store, key, encode(snapshot))
        try:
            mine = [entry.key for entry in self._entries(owner)]
            self._delete([old for old in mine[KEPT:] if old != key])
        except SnapshotError as error:
            log.warning("old snapshots stay: %s", error)
        return key

    def latest(self, owner: Owner, expected: Fingerprint | None = None) -> Snapshot | None:
        """The newest one that the segment can go on from; None when there is none.

        Bad ones are passed over with a warning, and damaged ones deleted. Those of a later lease than the owner's do
        not exist for it.

        Raises:
            ValueError: the owner is malformed.
            SnapshotError: the store cannot be read.
        """
        return self._newest(owner, lambda data: decode(data, expected, owner))

    def latest_bytes(self, owner: Owner, expected: Fingerprint | None = None) -> bytes | None:
        """As `latest`, but what `decode` takes: verified, not made into tensors."""

        def verified(data: bytes) -> bytes:
            verify(data, expected, owner)
            return data

        return self._newest(owner, verified)

    def _newest(self, owner: Owner, read: Callable[[bytes], T]) -> T | None:
        for _ in range(LISTINGS):
            gone = False
            for entry in self._entries(owner):
                try:
                    return read(self._read(entry.key))
                except FileNotFoundError:
                    gone = True  # a newer one took its place, or the job is over
                except DamagedSnapshot as error:
                    log.warning("snapshot %s is damaged and deleted, the one before it is used: %s", entry.key, error)
                    self._delete([entry.key])
                except BadSnapshot as error:
                    log.warning("snapshot %s is passed over: %s", entry.key, error)
            if not gone:
                break
        return None

    def discard(self, job: str) -> None:
        """Delete all of a job's, whatever their epoch.

        Raises:
            ValueError: the id is malformed.
            SnapshotError: they cannot be deleted.
        """
        folder = f"{ROOT}/{_checked_job(job)}"
        self._delete([path for path, _ in self._list(folder)])
        if self._local:  # what killed writers left unfinished, which is not listed
            shutil.rmtree(self._directory / folder, ignore_errors=True)

    def discard_older(self, than: datetime) -> int:
        """Delete what was written before a time (aware of its zone): left by engines that outlived their jobs.

        Returns:
            How many.

        Raises:
            SnapshotError: they cannot be listed or deleted.
        """
        old = [path for path, written in self._list(ROOT) if written < than]
        self._delete(old)
        return len(old)

    def _entries(self, owner: Owner) -> list[Entry]:
        """Of the segment, of this lease and earlier ones, newest first."""
        found = []
        for path, _ in self._list(_prefix(owner)):
            match = NAME.fullmatch(path.rpartition("/")[2])
            if match is not None and int(match[1]) <= owner.epoch:
                found.append(Entry(int(match[1]), int(match[2]), path))
        return sorted(found, reverse=True)

    def _list(self, prefix: str) -> list[tuple[str, datetime]]:
        with _named_errors(prefix):
            return [
                (meta["path"], meta["last_modified"]) for page in obstore.list(self._store, prefix) for meta in page
            ]

    def _read(self, key: str) -> bytes:
        with _named_errors(key):
            return bytes(obstore.get(self._store, key).bytes())

    def _delete(self, keys: list[str]) -> None:
        for key in keys:
            try:
                with _named_errors(key):
                    obstore.delete(self._store, key)
            except FileNotFoundError:
                continue


def _prefix(owner: Owner) -> str:
    _check("segment index", owner.index, MAX_INDEX)
    _check("lease epoch", owner.epoch, MAX_EPOCH)
    return f"{ROOT}/{_checked_job(owner.job)}/{owner.index:04d}"


def _checked_job(job: str) -> str:
    if not JOB.fullmatch(job):
        raise ValueError(f"job is {job!r}: an id has 1 to 128 of A-Z, a-z, 0-9, - and _, a letter or digit first")
    return job


def _check(name: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{name} is {value}: it must be within 0 to {most}")


@contextmanager
def _named_errors(key: str) -> Iterator[None]:
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
