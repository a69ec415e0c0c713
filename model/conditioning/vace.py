"""VACE: a control video and a mask of what to generate, encoded side by side; references go in front.

The known part of the control video (mask black) and the part to generate or follow (mask white) are encoded separately;
the mask has a channel for each pixel of a latent cell (2503.07598).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.video_processor import VideoProcessor
from PIL import Image

from zoetrope.model.catalog.model_card import network_config
from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.conditioning.pixels import first_frames, missing, refuse
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.media.inputs import Clip, Inputs, Picture, compose_sheet
from zoetrope.model.media.resize import Frames, as_long_as, resize_to
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import InvalidRequest, ModelCard, Violation

UNKNOWN = 128  # the grey of frames to generate


class VaceConditioner:
    """See `model.conditioning.Conditioner`; gives what diffusers' WanVACEPipeline gives.

    A first or last frame is a known frame of the control video. A clip to edit is the control video itself, to be
    generated anew unless a mask says otherwise. References and the sheet of a grid are pictures in front.
    """

    def __init__(self, autoencoder: Autoencoder, config: TransformerConfig) -> None:
        self._autoencoder = autoencoder
        self._layers = len(config.vace_layers)

    def kinds(self) -> tuple[str, ...]:
        return TASK_KINDS

    def prompt(self, spec: VideoSpec) -> str:
        return spec.prompt

    def condition(
        self,
        spec: VideoSpec,
        inputs: Inputs,
        positive: torch.Tensor,
        negative: torch.Tensor | None,
        mask: Frames | None = None,
        scale: float = 1.0,
    ) -> Conditions:
        """See `model.conditioning.Conditioner.condition`.

        Args:
            mask: of the clip to edit, uint8 ``[F, H, W, 3]``, white where to generate; None: everywhere.
            scale: the weight of the hints in every layer.
        """
        refuse(spec, self.kinds())
        video, made = self._control(spec, inputs, mask)
        made = (made > 0.5).float()
        encode = self._autoencoder.encode
        latents = torch.cat([encode(video * (1 - made)), encode(video * made)])
        hints = torch.cat([latents, cell_mask(made[0], self._autoencoder).to(latents)])
        references = self._references(spec, inputs)
        for reference in references:  # each in front of the earlier ones, as in diffusers
            still = encode(reference[:, None])
            blank = hints.new_zeros(hints.shape[0] - still.shape[0], 1, *hints.shape[2:])
            hints = torch.cat([torch.cat([still, blank]), hints], dim=1)
        return Conditions(positive, negative, hints=hints, hint_scales=(scale,) * self._layers, lead=len(references))

    def _control(self, spec: VideoSpec, inputs: Inputs, mask: Frames | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the control video in -1..1 and the part to generate in 0..1, both ``[3, F, H, W]``."""
        size = (spec.native_width, spec.native_height)
        count = spec.model_frames
        start = first_frames(inputs, spec, self._autoencoder.temporal)
        if spec.task.kind == "edit_video":
            if inputs.video is None:
                raise missing("video", spec)
            frames = as_long_as(resize_to(inputs.video.frames, *size, spec.fit), count).copy()
            white = np.full_like(frames, 255) if mask is None else as_long_as(resize_to(mask, *size, spec.fit), count)
            made = ((self._pixels(white) + 1) / 2).clamp(0, 1)
        elif start is None and inputs.last is None:
            blank = torch.zeros(3, count, size[1], size[0])
            return blank, torch.ones_like(blank)
        else:
            frames = np.full((count, size[1], size[0], 3), UNKNOWN, np.uint8)
            made = torch.ones(3, count, size[1], size[0])
        if start is not None:
            frames[: len(start)] = resize_to(start, *size, spec.fit)
            made[:, : len(start)] = 0
        if inputs.last is not None:
            frames[-1] = resize_to(inputs.last.pixels[None], *size, spec.fit)[0]
            made[:, -1] = 0
        return self._pixels(frames), made

    def _references(self, spec: VideoSpec, inputs: Inputs) -> list[torch.Tensor]:
        """Return the references, each ``[3, H, W]`` in -1..1: the whole picture centred on a white canvas of the clip's
        size."""
        height, width = spec.native_height, spec.native_width
        pictures: list[Picture] = [compose_sheet(inputs.panels, width, height, spec.fit)] if inputs.panels else []
        for index, reference in enumerate(inputs.references):
            if isinstance(reference, Clip):
                raise InvalidRequest(
                    Violation(
                        f"task.references.{index}", f"is a clip, but {spec.model} takes only pictures as references"
                    )
                )
            pictures.append(reference)
        processor = VideoProcessor(vae_scale_factor=self._autoencoder.spatial)
        canvases = []
        for picture in pictures:
            pixels = processor.preprocess(Image.fromarray(picture.pixels))
            scale = min(height / pixels.shape[2], width / pixels.shape[3])
            high, wide = int(pixels.shape[2] * scale), int(pixels.shape[3] * scale)
            top, left = (height - high) // 2, (width - wide) // 2
            canvas = torch.ones(3, height, width)
            canvas[:, top : top + high, left : left + wide] = F.interpolate(pixels, (high, wide), mode="bilinear")[0]
            canvases.append(canvas)
        return canvases

    def _pixels(self, frames: Frames) -> torch.Tensor:
        """Convert ``[F, H, W, 3]`` uint8 of the clip's size to ``[3, F, H, W]`` in -1..1."""
        processor = VideoProcessor(vae_scale_factor=self._autoencoder.spatial)
        pixels: torch.Tensor = processor.preprocess([Image.fromarray(frame) for frame in frames])
        return pixels.transpose(0, 1)


def load(card: ModelCard, autoencoder: Autoencoder, device: torch.device) -> VaceConditioner:
    """Load the conditioner of a checkpoint; see `model.conditioning.load`."""
    return VaceConditioner(autoencoder, network_config(card))


def cell_mask(made: torch.Tensor, autoencoder: Autoencoder) -> torch.Tensor:
    """Turn a mask ``[F, H, W]`` into ``[spatial^2, T, H / spatial, W / spatial]``: a cell's pixels become channels.

    Frames are picked as in diffusers, which skips the first and the last one of a clip: a single known frame there
    shows in the latents but not in the mask.
    """
    side = autoencoder.spatial
    frames, height, width = made.shape
    cells = made.reshape(frames, height // side, side, width // side, side).permute(2, 4, 0, 1, 3).flatten(0, 1)
    length = (frames + autoencoder.temporal - 1) // autoencoder.temporal
    return F.interpolate(cells[None], (length, height // side, width // side), mode="nearest-exact")[0]
