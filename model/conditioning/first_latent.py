"""Wan2.2-TI2V-5B: the first latent frames of the target are known, and clean at every step."""

from __future__ import annotations

import torch

from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.conditioning.pixels import first_frames, fitted, missing, refuse, unwanted
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.media.inputs import Inputs
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard


class FirstLatentConditioner:
    """See `model.conditioning.Conditioner`; gives what diffusers' pipelines give with ``expand_timesteps``."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder

    def kinds(self) -> tuple[str, ...]:
        return ("text_to_video", "image_to_video")

    def prompt(self, spec: VideoSpec) -> str:
        return spec.prompt

    def condition(
        self, spec: VideoSpec, inputs: Inputs, positive: torch.Tensor, negative: torch.Tensor | None
    ) -> Conditions:
        """See `model.conditioning.Conditioner.condition`."""
        refuse(spec, self.kinds())
        if inputs.last is not None:
            raise unwanted("last_frame", spec)
        start = first_frames(inputs, spec, self._autoencoder.temporal)
        if start is None:
            if spec.task.kind == "image_to_video":
                raise missing("image", spec)
            return Conditions(positive, negative)
        latents = self._autoencoder.encode(fitted(start, spec.native_width, spec.native_height, spec.fit))
        known, frames = known_start(latents, spec.latent_shape)
        return Conditions(positive, negative, known=known, known_frames=frames)


def load(card: ModelCard, autoencoder: Autoencoder, device: torch.device) -> FirstLatentConditioner:
    """Load the conditioner of a checkpoint; see `model.conditioning.load`."""
    return FirstLatentConditioner(autoencoder)


def known_start(latents: torch.Tensor, shape: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Put latents ``[C, t, H, W]`` at the start of a clip of ``shape``: ``known`` [C, T, H, W], ``known_frames``
    [T]."""
    known = latents.new_zeros(shape)
    known[:, : latents.shape[1]] = latents
    return known, torch.arange(shape[1], device=latents.device) < latents.shape[1]
