"""Make the work list of attention over packed sequences: one entry for each tile of queries, the longest first."""

from __future__ import annotations

import torch

from zoetrope.kernels.types.block_mask import BLOCK_Q
from zoetrope.kernels.types.upload import keep_tables, upload_numbers
from zoetrope.kernels.types.varlen import CuSeqlens

# first query, end of its sequence, first key, end of the keys, tile number within a block mask, sequence,
# first entry of the sequence, entries of the sequence
FIELDS = 8


@keep_tables
def query_tiles(cu_q: CuSeqlens, cu_k: CuSeqlens, block: int, device: torch.device) -> torch.Tensor:
    """Return ``[tiles, FIELDS]`` int32: rows of the packed tensors, tiles of ``block`` queries, most keys first.

    A tile never crosses sequences, and the tiles of a sequence are neighbours, which share their keys in L2; the last
    two columns let a launch of ``tiles * heads`` programs keep the programs of one sequence and head together (program
    ``p`` belongs to the sequence of entry ``p // heads``). Sorting makes the last programs of a launch the short
    ones. The fifth column numbers tiles of `BLOCK_Q` queries in the order of the packed queries, as a `BlockMask` does.
    Sequences without queries have no tile; those without keys have tiles whose keys end where they begin.
    """
    sequences: list[list[tuple[int, int, int, int, int, int]]] = []
    numbered = 0
    for sequence, length in enumerate(cu_q.lengths):
        q_begin, k_begin = cu_q.offsets[sequence], cu_k.offsets[sequence]
        q_end, k_end = q_begin + length, k_begin + cu_k.lengths[sequence]
        starts = range(q_begin, q_end, block)
        sequences.append([(q, q_end, k_begin, k_end, numbered + (q - q_begin) // BLOCK_Q, sequence) for q in starts])
        numbered += -(-length // BLOCK_Q)
    sequences.sort(key=lambda tiles: tiles[0][2] - tiles[0][3] if tiles else 0)
    rows: list[tuple[int, ...]] = []
    for tiles in sequences:
        first = len(rows)
        rows += [(*tile, first, len(tiles)) for tile in tiles]
    return upload_numbers(rows, device).reshape(-1, FIELDS)
