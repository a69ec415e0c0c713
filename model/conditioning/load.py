"""Load the conditioner of a checkpoint."""

from __future__ import annotations

import torch

from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.conditioning import Conditioner
from zoetrope.model.families import family_of
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.runtime.lazy import import_named


def load_conditioner(card: ModelCard, autoencoder: Autoencoder, device: torch.device) -> Conditioner:
    """Load the conditioner of the card's family, with the image encoder if the network attends to CLIP tokens.

    Only what this family needs is imported: parts of diffusers and transformers take seconds.

    Raises:
        ModelError: the image encoder cannot be loaded.
    """
    conditioner: Conditioner = import_named(family_of(card.family).load_conditioner)(card, autoencoder, device)
    return conditioner
