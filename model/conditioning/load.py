"""The conditioner that belongs to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from model.autoencoder import Autoencoder
from model.card import transformer_config
from model.conditioning import Conditioner
from model.directory import ModelError, image_encoder_files, is_original, read_transformers
from model.tasks import ModelCard
from model.weights import check_all_finite

if TYPE_CHECKING:
    from model.image_encoder import ImageEncoder


def load_conditioner(card: ModelCard, autoencoder: Autoencoder, device: torch.device) -> Conditioner:
    """Chosen by the card; loads the image encoder where the network attends to CLIP tokens. What a family needs is
    imported for that family: diffusers' and transformers' parts take seconds to load.

    Raises:
        ModelError: the image encoder cannot be loaded.
    """
    root = Path(card.directory)
    config = transformer_config(read_transformers(root)[0])
    match card.conditioner:
        case "channels":
            from model.conditioning.channels import ChannelsConditioner

            return ChannelsConditioner(autoencoder, config, _image_encoder(root, device) if config.image_dim else None)
        case "first_latent":
            from model.conditioning.first_latent import FirstLatentConditioner

            return FirstLatentConditioner(autoencoder)
        case "vace":
            from model.conditioning.vace import VaceConditioner

            return VaceConditioner(autoencoder, config)
        case "bernini":
            from model.conditioning.bernini import BerniniConditioner

            return BerniniConditioner(autoencoder, config.patch_size[1])
        case "streams":
            from model.conditioning.streams import StreamsConditioner

            return StreamsConditioner(autoencoder)
    raise ModelError(f"{root}: no conditioner is called {card.conditioner!r}")


def _image_encoder(root: Path, device: torch.device) -> ImageEncoder:
    from model.image_encoder import ImageEncoder
    from model.original_clip import load_original_image_encoder

    if is_original(root):
        return load_original_image_encoder(root, device)
    check_all_finite(image_encoder_files(root))
    try:
        return ImageEncoder.load(root, device)
    except Exception as error:  # whatever transformers raises becomes one line
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{root / 'image_encoder'}: cannot be loaded: {type(error).__name__}: {reason}") from None
