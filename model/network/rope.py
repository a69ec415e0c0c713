"""Rotary positions of tokens on a grid: angles are computed per axis and broadcast over the tokens."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

Grid = tuple[int, int, int]  # tokens along time, height and width
Placed = tuple[int, Grid]  # a stream: its source id and grid
Tables = tuple[tuple[torch.Tensor, torch.Tensor], ...]


@lru_cache(maxsize=2)  # batches persist from step to step; two noise experts have one each
def positions(
    streams: tuple[Placed, ...], head_dim: int, theta: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin of the rotations of all tokens, stream by stream: ``[N, head_dim / 2]`` float32, read-only.

    Wan splits a head into time, height and width parts of ``d - 4 * (d // 6)``, ``2 * (d // 6)`` and ``2 * (d // 6)``;
    Bernini-R adds a rotation of the whole head by the source id, which is the identity for the target (id 0). Angles
    are computed in float64 on the CPU.
    """
    sizes = [math.prod(grid) for _, grid in streams]
    # The cached tensors outlive the step that asks first, and a trainer may use them too.
    with torch.inference_mode(False):
        cos, sin = torch.empty(2, sum(sizes), head_dim // 2, device=device)
        written: dict[Placed, slice] = {}
        start = 0
        for stream, size in zip(streams, sizes, strict=True):
            rows = slice(start, start + size)
            same = written.setdefault(stream, rows)
            if same is rows:
                _write(cos[rows], sin[rows], stream[1], _tables(stream, head_dim, theta, device))
            else:  # as for the branches of a guided segment
                cos[rows], sin[rows] = cos[same], sin[same]
            start += size
    return cos, sin


def _tables(stream: Placed, head_dim: int, theta: float, device: torch.device) -> Tables:
    """Return cos and sin along time, height and width, each ``[length, columns]`` float32."""
    source_id, grid = stream
    side = 2 * (head_dim // 6)

    def angles(length: int, dim: int) -> torch.Tensor:
        freqs = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        return torch.arange(length, dtype=torch.float64)[:, None] * freqs

    parts = [angles(n, dim) for n, dim in zip(grid, (head_dim - 2 * side, side, side), strict=True)]
    turn = angles(source_id + 1, head_dim)[source_id].split([part.shape[1] for part in parts])
    turned = [part + own for part, own in zip(parts, turn, strict=True)]
    return tuple((angle.cos().float().to(device), angle.sin().float().to(device)) for angle in turned)


def _write(cos: torch.Tensor, sin: torch.Tensor, grid: Grid, tables: Tables) -> None:
    """Write the tables into ``[tokens of the grid, head_dim / 2]``, a row for each token."""
    t, h, w = grid
    shapes = ((t, 1, 1), (1, h, 1), (1, 1, w))
    for number, out in enumerate((cos, sin)):
        parts = [table[number].view(*shape, -1) for table, shape in zip(tables, shapes, strict=True)]
        widths = [part.shape[-1] for part in parts]
        for columns, part in zip(out.view(t, h, w, -1).split(widths, dim=-1), parts, strict=True):
            columns.copy_(part.expand_as(columns))
