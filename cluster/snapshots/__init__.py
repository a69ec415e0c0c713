"""Snapshots of segments: what they look like, where they are kept, when and how they are written."""

from cluster.shelf import SnapshotError
from cluster.snapshots.format import BadSnapshot, DamagedSnapshot, Fingerprint, Snapshot, decode, encode
from cluster.snapshots.keeper import SnapshotKeeper
from cluster.snapshots.policy import due
from cluster.snapshots.store import SnapshotStore
from cluster.snapshots.writer import SnapshotWriter, WriteFailure

__all__ = [
    "BadSnapshot",
    "DamagedSnapshot",
    "Fingerprint",
    "Snapshot",
    "SnapshotError",
    "SnapshotKeeper",
    "SnapshotStore",
    "SnapshotWriter",
    "WriteFailure",
    "decode",
    "due",
    "encode",
]
