"""Measure what nano's autoencoder alone loses: PSNR of clips after encoding and decoding."""

from __future__ import annotations

import torch

from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.nano.world import render, sample_scenes
from zoetrope.model.request.tasks import ModelCard


def autoencoder_psnr(autoencoder: Autoencoder, card: ModelCard, count: int, seed: int) -> list[tuple[str, float]]:
    """Return size and PSNR in dB (pixels in 0..1) of ``count`` clips after encoding and decoding; sizes are those of
    cases."""
    generator = torch.Generator().manual_seed(seed)
    frames = -(-(card.default_frames - 1) // card.temporal) * card.temporal + 1
    values = []
    for i in range(count):
        width, height = card.native_sizes[i % len(card.native_sizes)]
        clip = render(sample_scenes(1, height, width, frames, generator), height, width, frames)[0]
        again = torch.cat(list(autoencoder.decode_stream(autoencoder.encode(clip))), dim=1).cpu()
        error = ((again - clip) / 2).square().mean().clamp_min(1e-10)
        values.append((f"{width}x{height}", float(-10 * error.log10())))
    return values
