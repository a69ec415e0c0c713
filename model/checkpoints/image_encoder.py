"""Load CLIP's vision tower from a checkpoint directory in either layout, or from a file."""

from __future__ import annotations

import torch

from zoetrope.model.catalog.checkpoint_layout import read_image_encoder
from zoetrope.model.catalog.parts import Source
from zoetrope.model.checkpoints.original_clip import load_original_image_encoder
from zoetrope.model.checkpoints.weights import check_all_finite
from zoetrope.model.codecs.image_encoder import ImageEncoder
from zoetrope.model.inspection.files import ModelError


def load_image_encoder(source: Source, device: torch.device) -> ImageEncoder:
    """Load the image encoder in float32.

    Raises:
        ModelError: a file is missing or corrupt, lacks a tensor or holds NaN.
    """
    part = read_image_encoder(source)
    if part.original:
        return load_original_image_encoder(part, device)
    check_all_finite(part.files)
    try:
        return ImageEncoder.load(part.directory.parent, device)
    except Exception as error:  # whatever transformers raises becomes one line
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{part.directory}: cannot be loaded: {type(error).__name__}: {reason}") from None
