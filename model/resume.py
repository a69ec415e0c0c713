"""A segment as it is between two steps: taken out of one engine, put into another of the same model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from model.denoise import Denoiser, Segment
from model.sampling import Sampler, SamplerState

LATENTS = "latents"


@dataclass(frozen=True)
class SegmentState:
    """All that `resume` needs beside the segment's spec and conditions; after the last step that is the latents alone.

    Attributes:
        latents: ``[C, lead + T, H, W]`` float32.
    """

    latents: torch.Tensor
    sampler: SamplerState

    @property
    def step(self) -> int:
        return self.sampler.step

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of them by name."""
        return {LATENTS: self.latents, **self.sampler.tensors}

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> SegmentState:
        """The same with other tensors, named as `tensors` names them. Raises KeyError where the latents lack."""
        rest = {name: tensor for name, tensor in tensors.items() if name != LATENTS}
        return SegmentState(tensors[LATENTS], replace(self.sampler, tensors=rest))


def state_of(segment: Segment) -> SegmentState:
    """The segment's own tensors, not copies. A step replaces them and never writes to them."""
    return SegmentState(segment.latents, segment.sampler.state())


def resume(denoiser: Denoiser, segment: Segment, state: SegmentState) -> Segment:
    """The segment, as `Denoiser.start` gave it, after the steps of the state. The noise was drawn again by the start.

    Raises:
        ValueError: the state is of another shape or scheduler, or of a run of another number of steps.
    """
    if state.latents.shape != segment.latents.shape:
        shape, expected = tuple(state.latents.shape), tuple(segment.latents.shape)
        raise ValueError(f"segment {segment.spec.id}: the state's latents are {shape}, expected {expected}")
    sampler = Sampler.restore(
        denoiser.scheduler_config, segment.spec.steps, state.sampler.to(denoiser.device), segment.spec.flow_shift
    )
    return replace(segment, sampler=sampler, latents=state.latents.to(denoiser.device))
