"""The placement groups of an engine's ranks: its replica's own, or ones that its leader makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.util import get_current_placement_group, placement_group, remove_placement_group

from zoetrope.cluster.planning.placement import Placement


@dataclass(frozen=True)
class Slot:
    """Where one rank goes. ``part``: equal for slots of one placement group, which share an NVLink domain."""

    group: Any
    bundle: int
    part: int = 0


class Groups:
    """Placement groups, kept across an engine's epochs. Ray removes those of a leader that dies, if it is a replica."""

    def __init__(self, placements: Sequence[Placement], ranks: int) -> None:
        """Make the groups of ``placements``; without any, use the replica's group, whose first bundle is the leader's.

        Raises:
            RuntimeError: there are none and the leader is in no group, or their bundles are not one for each rank.
        """
        self._made = [placement_group(**placement.options()) for placement in placements]
        if placements:
            self.slots = [
                Slot(group, bundle, part)
                for part, (group, placement) in enumerate(zip(self._made, placements, strict=True))
                for bundle in range(len(placement.bundles))
            ]
        else:
            group = get_current_placement_group()
            if group is None:
                raise RuntimeError("an engine needs a placement group of its own")
            self.slots = [Slot(group, bundle + 1) for bundle in range(ranks)]
        if len(self.slots) != ranks:
            self.remove()
            raise RuntimeError(f"the placement groups have {len(self.slots)} bundles for {ranks} ranks")

    def remove(self) -> None:
        """Remove the groups that the leader made."""
        for group in self._made:
            remove_placement_group(group)
        self._made = []
