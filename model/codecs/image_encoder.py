"""Encode pictures to CLIP tokens, to which Wan2.1's image to video attends beside the text."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from transformers import BaseImageProcessor, CLIPImageProcessorPil, CLIPVisionModel

from zoetrope.model.media.inputs import Picture


class ImageEncoder:
    """CLIP's vision tower and its preprocessing, in transformers' layout."""

    def __init__(self, processor: BaseImageProcessor, network: CLIPVisionModel) -> None:
        self._processor = processor
        self._network = network

    @classmethod
    def load(cls, root: Path, device: torch.device, variant: str | None = None) -> ImageEncoder:
        """Load ``image_processor`` and ``image_encoder`` of a checkpoint directory, in float32.

        ``variant``: of its weight files, such as fp16. Preprocessing is by Pillow, which needs no torchvision.
        """
        processor = CLIPImageProcessorPil.from_pretrained(root / "image_processor", local_files_only=True)
        network = CLIPVisionModel.from_pretrained(
            root / "image_encoder", dtype=torch.float32, local_files_only=True, variant=variant
        )
        return cls(processor, network.to(device).eval().requires_grad_(False))

    @torch.inference_mode()
    def encode(self, pictures: list[Picture]) -> torch.Tensor:
        """Return the next-to-last hidden states of all pictures, concatenated: ``[K, image_dim]`` float32."""
        images = [Image.fromarray(picture.pixels) for picture in pictures]
        pixels = self._processor(images=images, return_tensors="pt").to(self._network.device)
        hidden: torch.Tensor = self._network(**pixels, output_hidden_states=True).hidden_states[-2]
        return hidden.flatten(0, 1).float()
