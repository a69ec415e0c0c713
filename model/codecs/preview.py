"""Show latents as small pictures without the autoencoder, at no cost beside a denoising step.

The colour of a latent cell is nearly a linear function of its channels, so the weights are fitted by least squares on a
few pictures that the autoencoder encodes. Image generators carry tables of such factors for each autoencoder; fitting
works for any checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from zoetrope.model.codecs.autoencoder import Autoencoder

PICTURES = 6
CELLS = 12  # of a side of each picture
RIDGE = 1e-3  # keeps channels that hardly vary from having any weight


@dataclass(frozen=True)
class LatentView:
    """A linear view of latents. ``weights`` [C + 1, 3]: colours 0..1 of a cell from its channels and a constant one."""

    weights: torch.Tensor

    @classmethod
    def fit(cls, autoencoder: Autoencoder) -> LatentView:
        """Find the weights on seeded pictures of smooth colours; takes an encoding of PICTURES small pictures."""
        generator = torch.Generator("cpu").manual_seed(0)
        side = CELLS * autoencoder.spatial
        rows, colours = [], []
        for i in range(PICTURES):
            coarse = torch.rand((1, 3, 2 + i, 2 + i), generator=generator)
            picture = functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)
            latents = autoencoder.encode(picture[0, :, None] * 2 - 1)[:, 0].float().cpu()
            mean = functional.avg_pool2d(picture, autoencoder.spatial)[0]
            rows.append(latents.flatten(1).T)
            colours.append(mean.flatten(1).T)
        inputs = functional.pad(torch.cat(rows), (0, 1), value=1.0).double()
        ridge = RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ torch.cat(colours).double())
        return cls(weights.float())

    def frames(self, latents: torch.Tensor) -> npt.NDArray[np.uint8]:
        """Convert latents ``[C, T, h, w]`` to frames ``[T, h, w, 3]``, one pixel per cell."""
        channels = functional.pad(latents.float().cpu().permute(1, 2, 3, 0), (0, 1), value=1.0)
        colours: npt.NDArray[np.uint8] = ((channels @ self.weights).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return colours
