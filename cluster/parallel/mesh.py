"""The process groups of a gang's ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Mesh:
    """A gang as one of its ranks sees it: ``groups x ranks``, rank ``group * ranks + place`` of the world.

    Each of the ``groups`` has sequences of its own (CFG parallel). The ``ranks`` of a group share the tokens and heads
    of its sequences (Ulysses) and the experts of the network.

    Attributes:
        group, place: this rank's group, and its place in the group.
        sequence: the ranks of the same group, by place; None if there is only one.
        across: the ranks of the same place, by group; None if there is only one group.
    """

    groups: int = 1
    ranks: int = 1
    group: int = 0
    place: int = 0
    sequence: dist.ProcessGroup | None = None
    across: dist.ProcessGroup | None = None

    @classmethod
    def build(cls, device: torch.device, groups: int = 1, timeout: timedelta | None = None) -> Mesh:
        """Build the mesh of all ranks of the world that this process has joined; all of them call this at the same
        time.

        Args:
            device: of this rank; NCCL carries CUDA, gloo the rest. groups: of CFG parallel, a divisor of the world.
            timeout: of one exchange; None: torch's default, which is many minutes.

        Raises:
            ValueError: the groups do not divide the world.
        """
        world, rank = dist.get_world_size(), dist.get_rank()
        if groups < 1 or world % groups:
            raise ValueError(f"groups is {groups}: it must divide the {world} ranks of the gang")
        ranks = world // groups
        group, place = divmod(rank, ranks)
        sequence: dist.ProcessGroup | None = None
        across: dist.ProcessGroup | None = None
        backend = "nccl" if device.type == "cuda" else "gloo"
        # All ranks make all process groups in the same order, as torch requires.
        if ranks > 1:
            for g in range(groups):
                made = dist.new_group([g * ranks + p for p in range(ranks)], timeout, backend)
                sequence = made if g == group else sequence
        if groups > 1:
            for p in range(ranks):
                made = dist.new_group([g * ranks + p for g in range(groups)], timeout, backend)
                across = made if p == place else across
        return cls(groups, ranks, group, place, sequence, across)

    def largest(self, values: Sequence[int], device: torch.device) -> list[int]:
        """Return for each value the largest of all ranks; every rank calls this at the same time, with equally many.

        It uses the existing process groups: with NCCL, one of the whole world would take additional memory.
        """
        found = torch.tensor(values, device=device)
        for group in (self.sequence, self.across):
            if group is not None:
                dist.all_reduce(found, dist.ReduceOp.MAX, group)
        return [int(value) for value in found.tolist()]
