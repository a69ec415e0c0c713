"""Load CLIP's vision tower from a checkpoint directory in either layout."""

from __future__ import annotations

from pathlib import Path

import torch

from zoetrope.model.catalog.checkpoint_layout import image_encoder_files
from zoetrope.model.catalog.original_layout import is_original
from zoetrope.model.checkpoints.original_clip import load_original_image_encoder
from zoetrope.model.checkpoints.weights import check_all_finite
from zoetrope.model.codecs.image_encoder import ImageEncoder
from zoetrope.model.inspection.files import ModelError


def load_image_encoder(root: Path, device: torch.device) -> ImageEncoder:
    """Load the image encoder in float32.

    Raises:
        ModelError: a file is missing or corrupt, lacks a tensor or holds NaN.
    """
    if is_original(root):
        return load_original_image_encoder(root, device)
    check_all_finite(image_encoder_files(root))
    try:
        return ImageEncoder.load(root, device)
    except Exception as error:  # whatever transformers raises becomes one line
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{root / 'image_encoder'}: cannot be loaded: {type(error).__name__}: {reason}") from None
