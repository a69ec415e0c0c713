"""Our own conditioning, in which one network does all six tasks: known frames in the target, sources in front of it."""

from __future__ import annotations

import torch

from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.conditioning.first_latent import known_start
from zoetrope.model.conditioning.pixels import first_frames, fitted, from_bytes, missing, refuse, shrink_sheet
from zoetrope.model.denoising.conditions import Conditions, Source
from zoetrope.model.media.inputs import Clip, Inputs, compose_sheet
from zoetrope.model.media.resize import as_long_as, whole
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard


class StreamsConditioner:
    """See `model.conditioning.Conditioner`; gives what nano was trained on (`model.nano.batches.conditions_of`).

    * first frame, or the frames to continue: known latent frames of the target; last frame: a still behind it
    * sources are numbered from 1: the clip to edit, the sheet of a grid, reference clips, then reference pictures, each
      a square of the clip's shorter side
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder

    def kinds(self) -> tuple[str, ...]:
        return TASK_KINDS

    def prompt(self, spec: VideoSpec) -> str:
        return spec.prompt

    def condition(
        self, spec: VideoSpec, inputs: Inputs, positive: torch.Tensor, negative: torch.Tensor | None
    ) -> Conditions:
        """See `model.conditioning.Conditioner.condition`."""
        refuse(spec, self.kinds())
        encode = self._autoencoder.encode
        width, height = spec.native_width, spec.native_height
        start = first_frames(inputs, spec, self._autoencoder.temporal)
        for field, needed, given in (
            ("image", "image_to_video", start is not None),
            ("first_frame", "first_last_frame", start is not None),
            ("last_frame", "first_last_frame", inputs.last is not None or inputs.goes_on),
            ("panels", "grid_to_video", bool(inputs.panels)),
            ("references", "reference_to_video", bool(inputs.references)),
            ("video", "edit_video", inputs.video is not None),
        ):
            if spec.task.kind == needed and not given:
                raise missing(field, spec)
        known, known_frames = None, None
        if start is not None:
            known, known_frames = known_start(encode(fitted(start, width, height, spec.fit)), spec.latent_shape)
        ending = None if inputs.last is None else encode(fitted(inputs.last.pixels[None], width, height, spec.fit))
        return Conditions(
            positive,
            negative,
            sources=tuple(
                Source(encode(pixels), number, pixels.shape[1] > 1)
                for number, pixels in enumerate(self._sources(spec, inputs), start=1)
            ),
            known=known,
            known_frames=known_frames,
            ending=ending,
        )

    def _sources(self, spec: VideoSpec, inputs: Inputs) -> list[torch.Tensor]:
        """Return the sources in order, each ``[3, F, H, W]`` in -1..1."""
        width, height, side = spec.native_width, spec.native_height, min(spec.native_width, spec.native_height)
        clips = [inputs.video] if inputs.video is not None else []
        sources = [fitted(as_long_as(clip.frames, spec.model_frames), width, height, spec.fit) for clip in clips]
        if inputs.panels:
            sheet = from_bytes(compose_sheet(inputs.panels, width, height, spec.fit).pixels[None])
            sources.append(shrink_sheet(sheet.transpose(0, 1)).transpose(0, 1))
        for reference in inputs.references:
            if isinstance(reference, Clip):
                temporal = self._autoencoder.temporal
                frames = reference.frames[: spec.model_frames]
                sources.append(fitted(frames[: whole(len(frames), temporal)], width, height, spec.fit))
        sources += [
            fitted(reference.pixels[None], side, side, spec.fit)
            for reference in inputs.references
            if not isinstance(reference, Clip)
        ]
        return sources


def load(card: ModelCard, autoencoder: Autoencoder, device: torch.device) -> StreamsConditioner:
    """Load the conditioner of a checkpoint; see `model.conditioning.load`."""
    return StreamsConditioner(autoencoder)
