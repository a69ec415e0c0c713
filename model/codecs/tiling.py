"""Place the tiles of a frame, and weight each of them in every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tiling:
    """The tiles of a frame, in pixels. Tiling changes the result, so a job keeps the tiling that it started with."""

    tile_height: int
    tile_width: int
    overlap: int  # of neighbouring tiles, blended linearly; the last ones may overlap by more

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < min(self.tile_height, self.tile_width):
            raise ValueError(
                f"overlap {self.overlap} must be less than the tile's sides, {self.tile_height} and {self.tile_width}"
            )


@dataclass(frozen=True)
class TileSpan:
    """A tile along one axis."""

    start: int
    length: int
    weights: torch.Tensor  # float32 [length]; over all tiles they sum to one in every pixel


def spans(size: int, tile: int, overlap: int) -> list[TileSpan]:
    """Cover ``size`` pixels with tiles of equal length; one tile if ``tile`` is not shorter."""
    if tile >= size:
        return [TileSpan(0, size, torch.ones(size))]
    starts = [*range(0, size - tile, tile - overlap), size - tile]
    ramp = (torch.arange(overlap) + 0.5) / max(1, overlap)
    raw = []
    for start in starts:
        weights = torch.ones(tile)
        if start > 0:
            weights[:overlap] *= ramp
        if start + tile < size:
            weights[tile - overlap :] *= ramp.flip(0)
        raw.append(weights)
    total = torch.zeros(size)
    for start, weights in zip(starts, raw, strict=True):
        total[start : start + tile] += weights
    return [TileSpan(s, tile, w / total[s : s + tile]) for s, w in zip(starts, raw, strict=True)]
