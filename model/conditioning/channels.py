"""Wan's image to video by channels: the given frames, encoded, and a mask of them lie beside the noisy latents.

Wan2.1 I2V and FLF2V also attend to CLIP tokens of the pictures; Wan2.2-I2V-A14B does not.
"""

from __future__ import annotations

import torch

from model.autoencoder import Autoencoder
from model.conditioning.pixels import first_frames, fitted, missing, refuse
from model.conditions import Conditions
from model.config import TransformerConfig
from model.image_encoder import ImageEncoder
from model.inputs import Inputs, Picture
from model.tasks import VideoSpec


class ChannelsConditioner:
    """See `model.conditioning.Conditioner`; gives what diffusers' WanImageToVideoPipeline gives."""

    def __init__(self, autoencoder: Autoencoder, config: TransformerConfig, image_encoder: ImageEncoder | None) -> None:
        """Raises ValueError when the network takes CLIP tokens and there is no encoder for them."""
        if config.image_dim is not None and image_encoder is None:
            raise ValueError("the network attends to CLIP tokens, which need an image encoder")
        self._autoencoder = autoencoder
        self._config = config
        self._images = image_encoder if config.image_dim is not None else None

    def kinds(self) -> tuple[str, ...]:
        """A network with CLIP tokens was trained with one picture, or with two whose positions it learned."""
        if self._images is None:
            return ("image_to_video", "first_last_frame")
        return ("image_to_video",) if self._config.pos_embed_seq_len is None else ("first_last_frame",)

    def prompt(self, spec: VideoSpec) -> str:
        return spec.prompt

    def condition(
        self, spec: VideoSpec, inputs: Inputs, positive: torch.Tensor, negative: torch.Tensor | None
    ) -> Conditions:
        """See `model.conditioning.Conditioner.condition`."""
        refuse(spec, self.kinds())
        start = first_frames(inputs, spec, self._autoencoder.temporal)
        if start is None:
            raise missing("image" if spec.task.kind == "image_to_video" else "first_frame", spec)
        last = None if inputs.last is None else inputs.last.pixels[None]
        if last is None and self._images is not None and self._config.pos_embed_seq_len is not None:
            raise missing("last_frame", spec)
        size = (spec.native_width, spec.native_height)
        clip = torch.zeros(3, spec.model_frames, spec.native_height, spec.native_width)
        given = torch.zeros(spec.model_frames, dtype=torch.bool)
        clip[:, : len(start)] = fitted(start, *size, spec.fit)
        given[: len(start)] = True
        if last is not None:
            clip[:, -1:] = fitted(last, *size, spec.fit)
            given[-1] = True
        latents = self._autoencoder.encode(clip)
        image = None
        if self._images is not None:
            # Where positions are learned the second picture is the last frame; without them there is one picture.
            pictures = [Picture(start[-1])]
            if last is not None and self._config.pos_embed_seq_len is not None:
                pictures.append(Picture(last[0]))
            image = self._images.encode(pictures)
        mask = frame_mask(given, self._autoencoder.temporal).to(latents)
        mask = mask[:, :, None, None].expand(-1, -1, *latents.shape[2:])
        return Conditions(positive, negative, channels=torch.cat([mask, latents]), image=image)


def frame_mask(given: torch.Tensor, temporal: int) -> torch.Tensor:
    """``[F]`` bool -> ``[temporal, T]`` float32: a channel for each frame of a latent frame.

    The first frame, which has a latent frame of its own, sets all of that one's channels.
    """
    padded = torch.cat([given[:1].expand(temporal - 1), given])
    channels: torch.Tensor = padded.float().unflatten(0, (-1, temporal)).T
    return channels
