"""What the stages leave of the GPU that they share with a rank of an engine."""

from __future__ import annotations

import torch

from zoetrope.cluster.planning.device_plan import device_plan
from zoetrope.model.request.tasks import ModelCard, Role
from zoetrope.serving.config.engine_groups import engine_groups
from zoetrope.serving.config.settings import Settings


def encoders_stay(card: ModelCard, settings: Settings, device: torch.device) -> bool:
    """Tell whether the text encoder and the autoencoder stay on the GPU between uses: as the ranks count on.

    Raises:
        ModelError: the GPU is too small for the model.
    """
    groups = settings.cfg_groups
    role: Role = "high" if settings.noise_experts == "apart" else "both"
    ranks = min(group.ranks for group in engine_groups(settings))  # the smallest gang has the least room
    return device_plan(card, device, ranks=ranks // groups, groups=groups, role=role).encoders_stay
