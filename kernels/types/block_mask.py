"""Select the blocks of attention scores to compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

BLOCK_Q = 128
BLOCK_K = 64


@dataclass(frozen=True, eq=False)
class BlockMask:
    """For each head and each tile of 128 queries, the tiles of 64 keys it attends to.

    Tiles of queries are numbered through all packed sequences, each sequence beginning a new tile; tiles of keys are
    numbered within their sequence. A tile of queries with no keys gives zeros. Make masks with `of`, which ensures
    that every listed tile exists.

    Attributes:
        count: ``[heads, query tiles]`` int32. index: ``[heads, query tiles, most]`` int32, ascending, of which
            the first ``count`` are valid.
        tiles: tiles of queries and of keys of each sequence, known on the host.
    """

    count: torch.Tensor
    index: torch.Tensor
    tiles: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, masks: Sequence[torch.Tensor]) -> BlockMask:
        """Make a mask from one bool tensor ``[heads, ceil(Lq / 128), ceil(Lk / 64)]`` per sequence, all on one device.

        Raises:
            ValueError: there is none, one is not bool of three dimensions, or their numbers of heads or devices differ.
        """
        if not masks:
            raise ValueError("masks is empty: there must be one for each sequence")
        for i, mask in enumerate(masks):
            if mask.dtype != torch.bool or mask.ndim != 3:
                raise ValueError(f"masks[{i}] is {mask.dtype} of {mask.ndim} dimensions: it must be bool of 3")
            if mask.shape[0] != masks[0].shape[0]:
                raise ValueError(f"masks[{i}] has {mask.shape[0]} heads, masks[0] has {masks[0].shape[0]}")
            if mask.device != masks[0].device:
                raise ValueError(f"masks[{i}] is on {mask.device}, masks[0] on {masks[0].device}")
        most = max(1, *(mask.shape[2] for mask in masks))
        counts = [mask.sum(-1) for mask in masks]
        indices: list[torch.Tensor] = []
        for mask in masks:
            held_first = mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True)  # both parts ascending
            indices.append(F.pad(held_first, (0, most - mask.shape[2])))
        return cls(
            count=torch.cat(counts, dim=1).int().contiguous(),
            index=torch.cat(indices, dim=1).int().contiguous(),
            tiles=tuple((mask.shape[1], mask.shape[2]) for mask in masks),
        )

    @property
    def heads(self) -> int:
        return self.count.shape[0]

    def dense(self, key_tiles: int) -> torch.Tensor:
        """Return the mask as ``[heads, query tiles, key_tiles]`` bool."""
        at = torch.arange(self.index.shape[-1], device=self.index.device) < self.count[..., None]
        dense = torch.zeros(*self.count.shape, max(key_tiles, 1), dtype=torch.int32, device=self.index.device)
        dense.scatter_add_(-1, self.index.long().clamp(max=dense.shape[-1] - 1), at.int())
        return dense[..., :key_tiles] > 0

    def of_sequence(self, sequence: int) -> torch.Tensor:
        """Return the bool tensor ``[heads, query tiles, key tiles]`` of one sequence, as `of` takes it."""
        first = sum(queries for queries, _ in self.tiles[:sequence])
        queries, keys = self.tiles[sequence]
        return self.dense(keys)[:, first : first + queries]
