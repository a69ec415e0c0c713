"""The conditions of a segment, and how they enter its sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from zoetrope.kernels.types.upload import upload
from zoetrope.model.denoising.guidance import Mode, Streams
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.sequences import Sequence, Stream


@dataclass(frozen=True)
class Source:
    """Clean latents ``[C, T, H, W]`` in front of the target; ids are numbered from 1, videos before images."""

    latents: torch.Tensor
    source_id: int
    video: bool = False  # the clip to edit, which guidance treats separately from pictures


@dataclass(frozen=True)
class Conditions:
    """Everything that conditions a segment. ``negative`` is None if guidance needs no second branch.

    Attributes:
        known: clean latents ``[C, T, H, W]`` of the target, used where ``known_frames`` [T] is true: a first frame, or
            the overlap with the previous segment. ``known_frames`` stays on the host, which plans with it.
        ending: ``[C, 1, H, W]``, the last frame as a still, one latent frame after the target's last.
        channels: ``[Cc, T, H, W]``, concatenated to the noisy latents in every branch (Wan's 36-channel image to
        video).
        image: CLIP tokens ``[K, image_dim]``.
        hints: VACE's control latents ``[vace_in_channels, lead + T, H, W]``; hint_scales: a weight per VACE layer.
        lead: latent frames in front of the clip that are denoised with it and cut off at the end (VACE's references).
        clean_known: known frames have noise level 0; false: they are as noisy as the rest, for networks trained with
            one level per clip.
        clean_sources: sources have noise level 0; false: they have the target's, as in Bernini-R's training.
        guidance: how the branches are combined.
    """

    positive: torch.Tensor  # [L, text_dim]
    negative: torch.Tensor | None = None
    sources: tuple[Source, ...] = ()
    known: torch.Tensor | None = None
    known_frames: torch.Tensor | None = None
    ending: torch.Tensor | None = None
    channels: torch.Tensor | None = None
    image: torch.Tensor | None = None
    hints: torch.Tensor | None = None
    hint_scales: tuple[float, ...] = ()
    lead: int = 0
    clean_known: bool = True
    clean_sources: bool = True
    guidance: Mode = "cfg"

    def to(self, device: torch.device) -> Conditions:
        """Return them with all that enters a step on its device, so that no step copies it again."""

        def moved(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else x.to(device)

        return replace(
            self,
            positive=self.positive.to(device),
            negative=moved(self.negative),
            sources=tuple(replace(source, latents=source.latents.to(device)) for source in self.sources),
            known=moved(self.known),
            ending=moved(self.ending),
            channels=moved(self.channels),
            image=moved(self.image),
            hints=moved(self.hints),
            known_frames=None if self.known_frames is None else self.known_frames.cpu(),
        )

    def target(self, latents: torch.Tensor, noise: torch.Tensor | None = None, share: float = 0.0) -> torch.Tensor:
        """Return ``latents`` with the known frames inserted, which are mixed with ``noise`` to that share."""
        if self.known is None or self.known_frames is None:
            return latents
        known = self.known.to(latents.dtype)
        if noise is not None:
            known = (1 - share) * known + share * noise
        frames = upload(self.known_frames, latents.device)
        return torch.where(frames[None, :, None, None], known, latents)

    def finish(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the clip ``[C, T, H, W]`` from the latents after the last step."""
        return self.target(latents)[:, self.lead :]

    def sequence(
        self,
        latents: torch.Tensor,
        timestep: float | torch.Tensor,
        text: torch.Tensor,
        streams: Streams = "all",
        noise: torch.Tensor | None = None,
    ) -> Sequence:
        """Return the sequence of one guidance branch at a noise level of 0..1000; known frames have level 0.

        Nothing is moved: the conditions are on the device of the latents (`to`), a timestep is on the host.

        Args:
            latents: ``[C, lead + T, H, W]``. streams: which of the sources this branch sees.
            noise: from which the latents started, needed if known frames are not clean.

        Raises:
            ValueError: known frames are not clean and ``noise`` is missing.
        """
        times = torch.ones(latents.shape[1], device=getattr(timestep, "device", None)) * timestep
        noisy = times[:1]
        if self.clean_known or self.known_frames is None:
            target = self.target(latents)
        elif noise is None:
            raise ValueError("known frames that are not clean need the noise that the latents started from")
        else:
            target = self.target(latents, noise.to(latents.dtype), float(timestep) / 1000)
        if self.clean_known and self.known_frames is not None:
            times = times.masked_fill(self.known_frames, 0.0)
        if self.ending is not None:
            target = torch.cat([target, self.ending.to(target.dtype)], dim=1)
            times = torch.cat([times, times.new_zeros(1)])
        if self.channels is not None:
            target = torch.cat([target, self.channels.to(target.dtype)])
        level = torch.zeros_like(noisy) if self.clean_sources else noisy
        shown = [s for s in self.sources if streams == "all" or (streams == "videos" and s.video)]
        sources = [Stream(s.latents.to(latents.dtype), level.expand(s.latents.shape[1]), s.source_id) for s in shown]
        return Sequence(
            streams=(*sources, Stream(target, times)),
            text=text,
            image=self.image,
            hints=self.hints,
            hint_scales=self.hint_scales,
        )


def blank_conditions(config: TransformerConfig, shape: tuple[int, int, int, int], text: torch.Tensor) -> Conditions:
    """Return zeros for everything that a network needs beside its text, e.g. to warm it up.

    Args:
        shape: C, T, H, W of the latents. text: ``[L, text_dim]``.
    """
    _, t, h, w = shape
    beside = config.in_channels - config.out_channels
    return Conditions(
        positive=text,
        channels=text.new_zeros(beside, t, h, w) if beside else None,
        image=text.new_zeros(config.pos_embed_seq_len or 1, config.image_dim) if config.image_dim else None,
        hints=text.new_zeros(config.vace_in_channels, t, h, w) if config.vace_layers else None,
        hint_scales=(1.0,) * len(config.vace_layers),
    )
