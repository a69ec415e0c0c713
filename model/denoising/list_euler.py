"""Sample by a list of noise levels with Euler steps."""

from __future__ import annotations

import torch

from zoetrope.model.denoising.list_sampler import ListSampler


class ListEuler(ListSampler):
    """Follows the velocity from level to level: ``x + (after - sigma) * v``."""

    def _next(self, latents: torch.Tensor, velocity: torch.Tensor, sigma: float, after: float) -> torch.Tensor:
        return latents + (after - sigma) * velocity
