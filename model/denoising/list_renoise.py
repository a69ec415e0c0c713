"""Sample by a list of noise levels, each time from a predicted clip and fresh noise."""

from __future__ import annotations

import torch

from zoetrope.model.denoising.list_sampler import ListSampler
from zoetrope.model.denoising.noise import draw_noise


class ListRenoise(ListSampler):
    """Predicts the clip and mixes it with fresh noise: ``(1 - after) * (x - sigma * v) + after * noise``.

    The last step gives the clip, and draws nothing.
    """

    draws = True

    def _next(self, latents: torch.Tensor, velocity: torch.Tensor, sigma: float, after: float) -> torch.Tensor:
        clean = latents - sigma * velocity
        if after == 0:
            return clean
        return (1 - after) * clean + after * draw_noise(tuple(latents.shape), self._generator).to(clean)
