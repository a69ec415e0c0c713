"""Wan's image to video by channels: the encoded given frames and their mask are concatenated to the noisy latents.

Wan2.1 I2V and FLF2V also attend to CLIP tokens of the pictures; Wan2.2-I2V-A14B does not.
"""

from __future__ import annotations

import torch

from zoetrope.model.catalog.model_card import network_config
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.checkpoints.image_encoder import load_image_encoder
from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.codecs.image_encoder import ImageEncoder
from zoetrope.model.conditioning.pixels import first_frames, fitted, missing, refuse
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.media.inputs import Inputs, Picture
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard


class ChannelsConditioner:
    """See `model.conditioning.Conditioner`; gives what diffusers' WanImageToVideoPipeline gives."""

    def __init__(self, autoencoder: Autoencoder, config: TransformerConfig, image_encoder: ImageEncoder | None) -> None:
        """Raise ValueError if the network takes CLIP tokens and there is no image encoder."""
        if config.image_dim is not None and image_encoder is None:
            raise ValueError("the network attends to CLIP tokens, which need an image encoder")
        self._autoencoder = autoencoder
        self._config = config
        self._images = image_encoder if config.image_dim is not None else None

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of task: with CLIP tokens a network was trained with one picture, or with two with learned
        positions."""
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
            # With learned positions the second picture is the last frame; without them there is one picture.
            pictures = [Picture(start[-1])]
            if last is not None and self._config.pos_embed_seq_len is not None:
                pictures.append(Picture(last[0]))
            image = self._images.encode(pictures)
        mask = frame_mask(given, self._autoencoder.temporal).to(latents)
        mask = mask[:, :, None, None].expand(-1, -1, *latents.shape[2:])
        return Conditions(positive, negative, channels=torch.cat([mask, latents]), image=image)


def load(card: ModelCard, autoencoder: Autoencoder, device: torch.device) -> ChannelsConditioner:
    """Load the conditioner of a checkpoint; see `model.conditioning.load`."""
    config = network_config(card)
    images = None if config.image_dim is None else load_image_encoder(source_of(card), device)
    return ChannelsConditioner(autoencoder, config, images)


def frame_mask(given: torch.Tensor, temporal: int) -> torch.Tensor:
    """Return the mask of given frames: ``[F]`` bool -> ``[temporal, T]`` float32, a channel per frame of a latent
    frame.

    The first frame, which has its own latent frame, sets all channels of it.
    """
    padded = torch.cat([given[:1].expand(temporal - 1), given])
    channels: torch.Tensor = padded.float().unflatten(0, (-1, temporal)).T
    return channels
