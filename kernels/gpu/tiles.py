"""Choose tile sizes: tuned on this device, else a safe default.

Only ``python -m zoetrope.benchmarks.kernels --tune`` writes ``data/tiles-<device>.json``, on that device.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

DATA = Path(__file__).parents[1] / "data"
DEVICES = {"H100": "h100", "H200": "h200"}  # a part of the device's name -> its table


@dataclass(frozen=True)
class GemmTile:
    """A tile of the grouped GEMM.

    ``group_m`` row tiles of an expert share their column tiles in L2; ``programs`` run on each multiprocessor at once;
    ``flatten`` fuses the loop over tiles with the one over K, so that the loads of a tile start in the last one's
    epilogue.
    """

    block_m: int = 128
    block_n: int = 256
    block_k: int = 64
    group_m: int = 8
    num_warps: int = 8
    num_stages: int = 3
    programs: int = 1
    flatten: bool = False


@dataclass(frozen=True)
class AttentionTile:
    """Queries and keys of a tile; ``tma`` brings the keys by the tensor memory accelerator where the layout allows.

    In the Gluon kernel ``num_warps`` and ``tma`` are fixed, ``num_stages`` tiles of keys and values are in flight, and
    with ``pingpong`` its two warpgroups take turns to issue their products.
    """

    block_m: int = 128
    block_n: int = 64
    num_warps: int = 8
    num_stages: int = 3
    tma: bool = True
    pingpong: bool = False


@dataclass(frozen=True)
class RowTile:
    """A pass over rows: rows a program takes at once, and its warps."""

    rows: int = 1
    num_warps: int = 8


Tile = TypeVar("Tile", GemmTile, AttentionTile, RowTile)


def device_table(device: torch.device) -> str | None:
    """Return the name of the table of tuned tiles for a device; None if it has none."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((table for part, table in DEVICES.items() if part in name), None)


_more: list[Path] = []  # folders whose tables add to those of `DATA`


def read_tiles_of(folder: Path) -> None:
    """Take tuned tiles from this folder too, in place of those of the package; tables that were read are read anew."""
    if folder != DATA and folder not in _more:
        _more.append(folder)
    tuned_tiles.cache_clear()


@lru_cache
def tuned_tiles(table: str | None) -> dict[str, dict[str, Any]]:
    """Return the tuned tiles of a device by their names in its table, as `entry` gives them; empty without a table."""
    found: dict[str, dict[str, Any]] = {}
    for folder in (DATA, *_more):
        path = folder / f"tiles-{table}.json"
        if path.is_file():
            found |= json.loads(path.read_text())["tiles"]
    return found


def tuned(key: str, default: Tile, device: torch.device) -> Tile:
    """Return the tile measured best for ``key`` (such as ``grouped_gemm/bf16``) on this device, else ``default``."""
    found = tuned_tiles(device_table(device)).get(key)
    return replace(default, **found) if found else default


def entry(tile: GemmTile | AttentionTile | RowTile) -> dict[str, Any]:
    """Return a tile in the form of the tables."""
    return asdict(tile)


def gemm_tile(kind: str, m: int, experts: int, n: int) -> GemmTile:
    """Return a safe tile of the grouped GEMM: it compiles without spills and wastes little on small groups.

    Args:
        kind: the dtype (``bf16``, ``fp16``, ``fp32``); ``fp8/rows`` and ``fp8/blocks`` by their scales.
        m: rows of all experts. experts: their number. n: columns of the result.
    """
    if kind.startswith("fp32"):
        return GemmTile(64, 64, 32, flatten=True)  # multiplied without tensor cores: larger tiles spill
    depth = 128 if kind.startswith("fp8") else 64
    if m <= 64 * experts:
        return GemmTile(64, 128, depth, num_warps=4, num_stages=4, programs=2, flatten=True)
    if n <= 128 or n % 16 or kind == "fp8/blocks":  # columns that end within 16 are stored one by one: wide tiles spill
        return GemmTile(128, 128, depth, num_stages=4, flatten=True)
    return GemmTile(128, 256, depth, num_stages=4, flatten=True)


def gemm_key(kind: str, m: int, experts: int, n: int, k: int) -> str:
    """Return the tables' name of a product of this kind (see `gemm_tile`) and size: groups to the next power of two."""
    rows = 1 << max(4, min(13, (max(1, m // experts) - 1).bit_length()))
    return f"grouped_gemm/{kind}/n{n}k{k}/m{rows}"


def gemm_candidates(kind: str) -> list[GemmTile]:
    """Return the tiles that the tuner tries for a kind (see `gemm_tile`)."""
    if kind.startswith("fp32"):
        return [GemmTile(64, 64, 32, flatten=True), GemmTile(32, 32, 32, num_warps=4, flatten=True)]
    depth = 128 if kind.startswith("fp8") else 64
    narrow = [
        GemmTile(64, 128, depth, num_warps=4, num_stages=4, programs=2, flatten=True),
        GemmTile(64, 128, depth, num_warps=4, num_stages=4, programs=2),
        GemmTile(128, 128, depth, num_stages=4, flatten=True),
        GemmTile(128, 128, depth, num_stages=4),
        GemmTile(128, 128, depth, group_m=16, num_stages=4),
    ]
    if kind == "fp8/blocks":
        return narrow  # two accumulators: wider tiles, or as wide ones on four warps, spill
    narrow.append(GemmTile(128, 128, depth, num_warps=4, num_stages=3, programs=2))
    wide = [GemmTile(128, 256, depth, group_m=group, flatten=flat) for group in (8, 16) for flat in (True, False)]
    return [*narrow, *wide, GemmTile(128, 256, depth, num_stages=4, flatten=True)]


def attention_tile(head_dim: int, dtype: torch.dtype, backend: str = "triton") -> AttentionTile:
    """Return a tile of attention that compiles without spills on Hopper.

    ``backend`` is ``triton``, ``gluon``, ``int8`` or ``int8_fp8``. As a model calls them, with heads of 128 and without
    log-sum-exp, a multiprocessor has room for one program of ``int8`` (152 registers in 256 threads) and for two of
    ``int8_fp8`` (230 in 128), where the matrix products of one run during the softmax of the other.
    """
    if backend.startswith("int8"):
        if dtype.itemsize == 4:
            return AttentionTile(64, 64, 4, 3)
        if backend == "int8_fp8" and head_dim > 64:
            # Sums of a tile beside the running ones: registers for one warpgroup. Tiles of 128 keys take 554
            # instructions, two of 64 take 756, and scaling the sums is the difference.
            return AttentionTile(64, 128, 4, 2)
        return AttentionTile(128, 64, 8, 3)
    if backend == "gluon":
        return AttentionTile(block_m=128, block_n=128, num_warps=4, num_stages=2 if head_dim > 64 else 4)
    if dtype.itemsize == 4:  # without tensor cores a thread keeps so much in registers that only small tiles fit
        m, n = {32: (64, 32), 64: (16, 64), 128: (16, 16)}[head_dim]
        return AttentionTile(block_m=m, block_n=n, num_warps=8, num_stages=2, tma=False)
    return AttentionTile(block_m=128, block_n=128, num_warps=8, num_stages=2 if head_dim > 64 else 3)


def attention_candidates(head_dim: int, dtype: torch.dtype, backend: str = "triton") -> list[AttentionTile]:
    """Return the tiles that the tuner tries, all without spills, the default first."""
    default = attention_tile(head_dim, dtype, backend)
    if dtype.itemsize == 4:
        return [default]
    if backend.startswith("int8"):
        others = [AttentionTile(m, n, m // 16, stages) for m in (64, 128) for n in (64, 128) for stages in (2, 3)]
    elif backend == "gluon":
        others = [AttentionTile(128, n, 4, stages) for n, stages in ((128, 2), (128, 3), (64, 4))]
        others += [replace(tile, pingpong=True) for tile in others]
    else:
        others = [AttentionTile(128, 128, 8, 2), AttentionTile(128, 128, 8, 3), AttentionTile(128, 64, 8, 3)]
        others += [AttentionTile(128, 64, 8, 4), AttentionTile(64, 64, 4, 2), AttentionTile(64, 128, 4, 2)]
        if head_dim <= 64:
            others += [AttentionTile(128, 128, 8, 4), AttentionTile(128, 64, 4, 3), AttentionTile(64, 128, 4, 3)]
        others += [replace(tile, tma=False) for tile in (default, AttentionTile(128, 64, 8, 3))]
    return [default, *(tile for tile in others if tile != default)]


def row_key(op: str, width: int) -> str:
    """Return the tables' key of a pass over rows: ``residual_norm/5120``."""
    return f"{op}/{width}"


def row_tile(width: int, elements: int = 2048) -> RowTile:
    """Return the default of a pass over rows: 8 to 40 elements for each thread, or to 24 where a program takes several
    rows, and 8 of the smaller part of `row_parts`.

    Args:
        width: of a row. elements: a program takes as many rows as give it at most this many, and one at least.
    """
    first, rest = row_parts(width)
    rows = max(1, elements // (first + (first if rest else 0)))
    threads = rows * rest // 8 if rest else rows * first // 16
    least = 1 << (-(-rows * width // (40 if rows == 1 else 24)) - 1).bit_length()
    return RowTile(rows=rows, num_warps=min(16, max(1, threads // 32, least // 32)))


def row_candidates(width: int) -> list[RowTile]:
    """Return the tiles that the tuner tries for a pass over rows of this width: 4 to 40 elements for each thread."""
    return [
        RowTile(rows=rows, num_warps=warps)
        for rows in (1, 2, 4, 8, 16, 32, 64)
        for warps in (1, 2, 4, 8, 16)
        if 128 * warps <= rows * width <= 1280 * warps
    ]


def row_parts(width: int) -> tuple[int, int]:
    """Split a row into two powers of two, the second 0 if the first suffices: 5120 is 4096 + 1024, with no idle
    lane."""
    first = 1 << width.bit_length() - 1
    rest = 1 << (width - first - 1).bit_length() if width > first else 0
    return (first, rest) if rest < first else (2 * first, 0)


def column_block(width: int) -> int:
    """Columns of a program that needs no whole rows: 1,024 at most, none idle if a power of two from 256 divides."""
    exact = width & -width
    return min(exact, 1024) if exact >= 256 else min(1 << max(width - 1, 0).bit_length(), 1024)
