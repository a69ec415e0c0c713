"""Where snapshots are kept: a directory or an object store, by way of obstore.

Keys are ``snapshots/{job}/{segment}/{epoch}-{step}``, numbers padded with zeros, so that the newest key is the last. A
higher epoch of the job's lease is newer than any step of a lower one: what a holder that lost its lease still writes
does not come before what its successor wrote.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import obstore

from cluster.messages import Owner
from cluster.shelf import ROOT, Shelf, SnapshotError, checked_job, named_errors
from cluster.snapshots.format import BadSnapshot, DamagedSnapshot, Fingerprint, Snapshot, decode, encode, verify

log = logging.getLogger("zoetrope.snapshots")

KEPT = 2  # of each segment: when the newest is damaged, there is the one before it
LISTINGS = 3  # of one search, when what was listed is gone by the time it is read
MAX_INDEX, MAX_EPOCH, MAX_STEP = 10**4 - 1, 10**10 - 1, 10**6 - 1
NAME = re.compile(r"(\d{10})-(\d{6})")
T = TypeVar("T")


class Entry(NamedTuple):
    """A key and what it says; the newest compares greatest."""

    epoch: int
    step: int
    key: str


class SnapshotStore(Shelf):
    """Snapshots by segment. One appears whole or not at all."""

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
        with named_errors(key):
            obstore.put(self.objects, key, encode(snapshot))
        try:
            mine = [entry.key for entry in self._entries(owner)]
            self.delete([old for old in mine[KEPT:] if old != key])
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
                    self.delete([entry.key])
                except BadSnapshot as error:
                    log.warning("snapshot %s is passed over: %s", entry.key, error)
            if not gone:
                break
        return None

    def _entries(self, owner: Owner) -> list[Entry]:
        """Of the segment, of this lease and earlier ones, newest first."""
        found = []
        for path, _ in self.list_keys(_prefix(owner)):
            match = NAME.fullmatch(path.rpartition("/")[2])
            if match is not None and int(match[1]) <= owner.epoch:
                found.append(Entry(int(match[1]), int(match[2]), path))
        return sorted(found, reverse=True)

    def _read(self, key: str) -> bytes:
        with named_errors(key):
            return bytes(obstore.get(self.objects, key).bytes())


def _prefix(owner: Owner) -> str:
    _check("segment index", owner.index, MAX_INDEX)
    _check("lease epoch", owner.epoch, MAX_EPOCH)
    return f"{ROOT}/{checked_job(owner.job)}/{owner.index:04d}"


def _check(name: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{name} is {value}: it must be within 0 to {most}")
