"""Bernini-R: clips and pictures as numbered streams in front of the target; guidance by task."""

from __future__ import annotations

import torch

from zoetrope.model.catalog.model_card import network_config
from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.conditioning.first_latent import known_start
from zoetrope.model.conditioning.pixels import first_frames, fitted, missing, refuse, unwanted
from zoetrope.model.denoising.conditions import Conditions, Source
from zoetrope.model.denoising.guidance import Mode, bernini_mode, with_prefix
from zoetrope.model.media.inputs import Clip, Inputs, compose_sheet
from zoetrope.model.media.resize import as_long_as, whole
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard

MAX_IMAGE_SIDE = 848  # the longer side of a picture


class BerniniConditioner:
    """See `model.conditioning.Conditioner`. Sources have the noise level of the clip, as the network was trained.

    It was not trained to continue given frames; if it has to, they are as noisy as the rest of the clip.
    """

    def __init__(self, autoencoder: Autoencoder, patch: int = 2) -> None:
        """``patch``: latent cells on a side of a token."""
        self._autoencoder = autoencoder
        self._multiple = autoencoder.spatial * patch

    def kinds(self) -> tuple[str, ...]:
        return ("text_to_video", "grid_to_video", "reference_to_video", "edit_video")

    def prompt(self, spec: VideoSpec) -> str:
        return with_prefix(self._mode(spec), spec.prompt)

    def _mode(self, spec: VideoSpec) -> Mode:
        return bernini_mode(spec.task.kind, len(getattr(spec.task, "references", ())))

    def condition(
        self, spec: VideoSpec, inputs: Inputs, positive: torch.Tensor, negative: torch.Tensor | None
    ) -> Conditions:
        """See `model.conditioning.Conditioner.condition`."""
        refuse(spec, self.kinds())
        for field, kind, given in (
            ("video", "edit_video", inputs.video),
            ("references", "reference_to_video", inputs.references or None),
            ("panels", "grid_to_video", inputs.panels or None),
        ):
            if spec.task.kind == kind and given is None:
                raise missing(field, spec)
        if inputs.last is not None:
            raise unwanted("last_frame", spec)
        size = (spec.native_width, spec.native_height)
        encode, temporal = self._autoencoder.encode, self._autoencoder.temporal
        clips = [as_long_as(inputs.video.frames, spec.model_frames)] if inputs.video is not None else []
        for reference in inputs.references:
            if isinstance(reference, Clip):
                frames = reference.frames[: spec.model_frames]
                clips.append(frames[: whole(len(frames), temporal)])
        pictures = [compose_sheet(inputs.panels, *size, spec.fit).pixels] if inputs.panels else []
        pictures += [reference.pixels for reference in inputs.references if not isinstance(reference, Clip)]
        latents = [encode(fitted(clip, *size, spec.fit)) for clip in clips]
        latents += [
            encode(fitted(pixels[None], *self._picture_size(*pixels.shape[:2]), "cover")) for pixels in pictures
        ]
        known, known_frames = None, None
        start = first_frames(inputs, spec, temporal)
        if start is not None:
            known, known_frames = known_start(encode(fitted(start, *size, spec.fit)), spec.latent_shape)
        return Conditions(
            positive,
            negative,
            known=known,
            known_frames=known_frames,
            clean_known=False,
            sources=tuple(Source(z, i + 1, i < len(clips)) for i, z in enumerate(latents)),
            clean_sources=False,
            guidance=self._mode(spec),
        )

    def _picture_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the width and height nearest to the picture's own: at most `MAX_IMAGE_SIDE`, multiples of a token's
        pixels."""
        scale = min(1.0, MAX_IMAGE_SIDE / max(height, width))
        unit = self._multiple
        return max(unit, round(width * scale / unit) * unit), max(unit, round(height * scale / unit) * unit)


def load(card: ModelCard, autoencoder: Autoencoder, device: torch.device) -> BerniniConditioner:
    """Load the conditioner of a checkpoint; see `model.conditioning.load`."""
    return BerniniConditioner(autoencoder, network_config(card).patch_size[1])
