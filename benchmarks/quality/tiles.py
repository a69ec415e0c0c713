"""Decode nano's latents in tiles, with the weights that Wan's autoencoders blend theirs by."""

from __future__ import annotations

import torch

from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.codecs.decode_memory import LiveBytes
from zoetrope.model.codecs.tiling import TileSpan, Tiling, spans
from zoetrope.model.nano.cases import Frames
from zoetrope.model.pipeline import decode_frames

TILING = Tiling(tile_height=16, tile_width=16, overlap=8)


def decode_tiled(autoencoder: Autoencoder, spatial: int, latents: torch.Tensor, tiling: Tiling = TILING) -> Frames:
    """Decode ``[C, T, H, W]`` tile by tile, each as a clip of its own, to frames ``[F, H, W, 3]`` uint8.

    nano's own decoder needs no tiles and ignores them (`model.codecs.linear_autoencoder`), so they are cut here: what
    a cell at the border of a tile lacks is its neighbour, as with Wan's.

    Args:
        spatial: pixels per latent cell, of which tiles and overlap are multiples.
    """
    height, width = (cells * spatial for cells in latents.shape[2:])
    whole: torch.Tensor | None = None
    with torch.inference_mode():
        for row in spans(height, tiling.tile_height, tiling.overlap):
            for column in spans(width, tiling.tile_width, tiling.overlap):
                part = latents[:, :, _cells(row, spatial), _cells(column, spatial)]
                pixels = torch.cat([chunk.float() for chunk in autoencoder.decode_stream(part)], dim=1)
                if whole is None:
                    whole = torch.zeros(3, pixels.shape[1], height, width)
                place = whole[:, :, row.start : row.start + row.length, column.start : column.start + column.length]
                place += pixels * row.weights[:, None] * column.weights
        assert whole is not None  # a frame has a tile
        found = ((whole.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return found.permute(1, 2, 3, 0).contiguous().numpy()


def _cells(span: TileSpan, spatial: int) -> slice:
    return slice(span.start // spatial, (span.start + span.length) // spatial)


def working_bytes(autoencoder: Autoencoder, latents: torch.Tensor, tiling: Tiling = TILING) -> tuple[int, int]:
    """Return the most bytes of tensors alive at a time while whole frames of a clip are decoded, and one tile of them.

    Frames are let go as soon as they are there.
    """
    spatial = autoencoder.spatial
    tile = latents[:, :, : tiling.tile_height // spatial, : tiling.tile_width // spatial]
    return _peak(autoencoder, latents), _peak(autoencoder, tile)


def _peak(autoencoder: Autoencoder, latents: torch.Tensor) -> int:
    live = LiveBytes()
    with live:
        for _ in decode_frames(autoencoder, latents):
            pass
    return live.peak
