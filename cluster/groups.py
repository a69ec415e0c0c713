"""Placement groups of an engine's ranks: its replica's own, or some that its leader makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.util import get_current_placement_group, placement_group, remove_placement_group

from cluster.placement import Placement


@dataclass(frozen=True)
class Slot:
    """Where one rank goes. ``part``: slots of one placement group have the same; they share an NVLink domain."""

    group: Any
    bundle: int
    part: int = 0


class Groups:
    """Kept over the epochs of an engine. Those that a leader made Ray takes away when it dies, if it is a replica."""

    def __init__(self, placements: Sequence[Placement], ranks: int) -> None:
        """Of the leader's own making, unless there are no ``placements``: then its replica's, its own bundle first.

        Raises:
            RuntimeError: there are none and the leader is in no group, or they have not as many bundles as ``ranks``.
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
        """Give back what the leader made."""
        for group in self._made:
            remove_placement_group(group)
        self._made = []
