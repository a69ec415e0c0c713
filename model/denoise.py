"""One denoising step of any number of segments at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from model.sampling import Sampler, initial_noise
from model.sequences import Sequence, Stream, unpack_targets
from model.tasks import SegmentSpec, needs_negative
from model.transformer import WanTransformer


@dataclass(frozen=True)
class Conditions:
    """What a segment is denoised towards. ``negative`` is None where guidance needs no second branch."""

    positive: torch.Tensor  # [L, text_dim]
    negative: torch.Tensor | None


@dataclass
class Segment:
    """A denoising run under way."""

    spec: SegmentSpec
    conditions: Conditions
    sampler: Sampler
    latents: torch.Tensor  # [C, T, H, W] float32


class Denoiser:
    """A transformer and the scheduler configuration that belongs to it."""

    def __init__(self, transformer: WanTransformer, scheduler_config: dict[str, Any]) -> None:
        self.transformer = transformer
        self.scheduler_config = scheduler_config
        self.device = transformer.proj_out.weight.device

    def start(self, spec: SegmentSpec, conditions: Conditions) -> Segment:
        """A segment before its first step, its noise drawn on the CPU so that a seed means the same everywhere."""
        return Segment(
            spec=spec,
            conditions=conditions,
            sampler=Sampler(self.scheduler_config, spec.steps),
            latents=initial_noise(spec.latent_shape, spec.seed).to(self.device),
        )

    @torch.inference_mode()
    def step(self, segments: list[Segment]) -> int:
        """Advance every segment by one step, all guidance branches of all of them in one forward.

        Returns:
            The number of tokens in the packed batch.
        """
        sequences = [sequence for segment in segments for sequence in self._branches(segment)]
        batch = self.transformer.pack(sequences)
        output = self.transformer(batch).float()
        velocities = iter(unpack_targets(output, batch, self.transformer.config.patch_size))
        for segment in segments:
            velocity = next(velocities)
            if needs_negative(segment.spec.guidance):
                unconditional = next(velocities)
                velocity = unconditional + segment.spec.guidance * (velocity - unconditional)
            segment.latents = segment.sampler.advance(velocity, segment.latents)
        return batch.cu_tokens.total

    def _branches(self, segment: Segment) -> list[Sequence]:
        latents = segment.latents
        timesteps = torch.full((latents.shape[1],), segment.sampler.timestep, device=self.device)
        target = Stream(latents, timesteps)
        texts = [segment.conditions.positive]
        if needs_negative(segment.spec.guidance):
            if segment.conditions.negative is None:
                raise ValueError(f"segment {segment.spec.id}: guidance {segment.spec.guidance} needs a negative prompt")
            texts.append(segment.conditions.negative)
        return [Sequence((target,), text.to(self.device)) for text in texts]
