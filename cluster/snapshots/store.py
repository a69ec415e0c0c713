"""Writes and reads the snapshots of segments.

Keys are ``snapshots/{job}/{segment}/{epoch}-{step}``, numbers padded with zeros, so that the newest key is the last. A
higher epoch of the job's lease is newer than any step of a lower one: what a holder that lost its lease still writes
never takes precedence over what its successor wrote.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from zoetrope.cluster.protocol.messages import Owner, one_line
from zoetrope.cluster.snapshots.format import BadSnapshot, DamagedSnapshot, Fingerprint, Snapshot, decode, encode
from zoetrope.cluster.snapshots.objects import ROOT, SnapshotError, SnapshotObjects, checked_job, named_errors
from zoetrope.model.denoising.resume import SegmentState

log = logging.getLogger("zoetrope.snapshots")

KEPT = 2  # for each segment: if the newest is damaged, there is the one before it
LISTINGS = 20  # at most in one search, while a writer replaces what was listed before it is read
MAX_INDEX, MAX_EPOCH, MAX_STEP = 10**4 - 1, 10**10 - 1, 10**6 - 1
NAME = re.compile(r"(\d{10})-(\d{6})")
Check = Callable[[SegmentState], object]


class Entry(NamedTuple):
    """A key and its parts; the newest compares greatest."""

    epoch: int
    step: int
    key: str


class SnapshotStore(SnapshotObjects):
    """Snapshots by segment. One appears whole or not at all."""

    passed_over = 0  # how many could not be resumed from

    def put(self, snapshot: Snapshot) -> str:
        """Write a snapshot and delete all but the newest two of the segment; those of a later lease are left alone.

        Returns:
            Its key.

        Raises:
            ValueError: the job's id is malformed, or a number is out of range.
            SnapshotError: it could not be written. If old ones cannot be deleted, that is only logged.
        """
        owner, step = snapshot.owner, snapshot.step
        _check("step", step, MAX_STEP)
        key = f"{_prefix(owner)}/{owner.epoch:010d}-{step:06d}"
        with suppress(SnapshotError), named_errors(key):
            self.objects.discard_unfinished(_prefix(owner))
        with named_errors(key):
            self.objects.put(key, encode(snapshot))
        try:
            mine = [entry.key for entry in self._entries(owner)]
            self.delete([old for old in mine[KEPT:] if old != key])
        except SnapshotError as error:
            log.warning("old snapshots stay: %s", error)
        return key

    def latest(self, owner: Owner, expected: Fingerprint | None = None, check: Check | None = None) -> Snapshot | None:
        """Return the newest snapshot from which the segment can resume; None if there is none.

        Others are passed over with a warning. Of those, damaged ones are deleted, and so are ones of the owner's own
        lease: the snapshots written from now on are of earlier steps and must take precedence over them. Those of
        earlier leases may be of use to another release. Those of a later lease do not exist for the owner.

        Args:
            check: raises ValueError if the segment cannot resume from a state.

        Raises:
            ValueError: the owner is malformed.
            SnapshotError: the store cannot be listed.
        """
        found = self._newest(owner, expected, check)
        return None if found is None else found[1]

    def latest_bytes(
        self, owner: Owner, expected: Fingerprint | None = None, check: Check | None = None
    ) -> bytes | None:
        """Return the bytes of `latest`, which `decode` takes."""
        found = self._newest(owner, expected, check)
        return None if found is None else found[0]

    def _newest(self, owner: Owner, expected: Fingerprint | None, check: Check | None) -> tuple[bytes, Snapshot] | None:
        for _ in range(LISTINGS):
            gone = False
            for entry in self._entries(owner):
                try:
                    data = self._read(entry.key)
                    return data, _checked(entry, decode(data, expected, owner), check)
                except FileNotFoundError:
                    gone = True  # a newer one has replaced it, or the job is over
                except SnapshotError as error:
                    self._pass_over(entry, error)
                except BadSnapshot as error:
                    self._pass_over(entry, error)
                    if isinstance(error, DamagedSnapshot) or entry.epoch == owner.epoch:
                        with suppress(SnapshotError):  # it will be passed over again
                            self.delete([entry.key])
            if not gone:
                break
        return None

    def _pass_over(self, entry: Entry, reason: Exception) -> None:
        self.passed_over += 1
        log.warning("snapshot %s is passed over, the one before it is tried: %s", entry.key, one_line(reason))

    def _entries(self, owner: Owner) -> list[Entry]:
        """The keys of the segment, of this lease and earlier ones, newest first."""
        found = []
        for path in self.list_keys(_prefix(owner)):
            match = NAME.fullmatch(path.rpartition("/")[2])
            if match is not None and int(match[1]) <= owner.epoch:
                found.append(Entry(int(match[1]), int(match[2]), path))
        return sorted(found, reverse=True)

    def _read(self, key: str) -> bytes:
        with named_errors(key):
            return self.objects.read(key)


def _checked(entry: Entry, snapshot: Snapshot, check: Check | None) -> Snapshot:
    if (snapshot.owner.epoch, snapshot.step) != (entry.epoch, entry.step):
        raise BadSnapshot(f"it says epoch {snapshot.owner.epoch}, step {snapshot.step}")
    if check is not None:
        try:
            check(snapshot.state)
        except ValueError as error:
            raise BadSnapshot(str(error)) from error
    return snapshot


def _prefix(owner: Owner) -> str:
    _check("segment index", owner.index, MAX_INDEX)
    _check("lease epoch", owner.epoch, MAX_EPOCH)
    return f"{ROOT}/{checked_job(owner.job)}/{owner.index:04d}"


def _check(name: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{name} is {value}: it must be within 0 to {most}")
