"""Choose the tiles in which a decoder that lacks memory for whole frames decodes a clip. Needs no torch."""

from __future__ import annotations

import math

MAX_UNTILED_PIXELS = 1_280 * 720  # of a frame that every decoder has memory for; see model.codecs.decode_memory
MAX_SIDE = 576  # of a tile, in pixels: two of them, overlapping by OVERLAP, cover 1088 rows
OVERLAP = 64  # of neighbouring tiles, in pixels, blended linearly
UNIT = 16  # pixels of a latent cell, of every autoencoder of ours or half of it


def tiles_for(width: int, height: int) -> tuple[int, int, int] | None:
    """Return tile height, tile width and overlap in pixels for a frame; None if it needs no tiles.

    Of the grids whose tiles have sides of at most MAX_SIDE, it is the one with the fewest tiles; these are as even as
    whole latent cells allow, so that little is decoded twice.
    """
    if width * height <= MAX_UNTILED_PIXELS:
        return None
    return _side(height), _side(width), OVERLAP


def _side(size: int) -> int:
    """Return the length of the fewest equal tiles of at most MAX_SIDE that cover ``size``."""
    count = max(1, math.ceil((size - OVERLAP) / (MAX_SIDE - OVERLAP)))
    return math.ceil((size + (count - 1) * OVERLAP) / count / UNIT) * UNIT
