"""What a leader needs of the code of models: imported beside the start of its first gang, since that takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoetrope.model.catalog.weights_identity import weights_here
from zoetrope.model.request.tasks import ModelCard

if TYPE_CHECKING:
    from zoetrope.cluster.snapshots.store import SnapshotStore


def load(card: ModelCard) -> None:
    """Import what the leader needs once there is a gang, and hash the weights if no process here has; it takes seconds,
    because it includes torch."""
    import zoetrope.cluster.planning.gang_plan
    import zoetrope.cluster.snapshots.store  # noqa: F401

    weights_here(card)


def open_snapshots(snapshots: str | None) -> SnapshotStore | None:
    """Open the store of snapshots; None if there is none."""
    from zoetrope.cluster.snapshots.store import SnapshotStore

    return None if snapshots is None else SnapshotStore(snapshots)
