"""Save a segment between two steps, and resume it in the same or another engine of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.denoising.samplers import form_of, restore_sampler
from zoetrope.model.denoising.sampling import SamplerState, SegmentSampler
from zoetrope.model.request.specs import SegmentSpec

LATENTS = "latents"


@dataclass(frozen=True)
class SegmentState:
    """What `resume` needs beside the segment's spec and conditions; after the last step only the latents.

    Attributes:
        latents: ``[C, lead + T, H, W]`` float32.
    """

    latents: torch.Tensor
    sampler: SamplerState

    @property
    def step(self) -> int:
        return self.sampler.step

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors by name."""
        return {LATENTS: self.latents, **self.sampler.tensors}

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> SegmentState:
        """Return the state with other tensors, named as in `tensors`. Raises KeyError if the latents are missing."""
        rest = {name: tensor for name, tensor in tensors.items() if name != LATENTS}
        return SegmentState(tensors[LATENTS], replace(self.sampler, tensors=rest))


def state_of(segment: Segment) -> SegmentState:
    """Return the segment's state: its own tensors, not copies. A step replaces them and never writes to them."""
    return SegmentState(segment.latents, segment.sampler.state())


def resume(denoiser: Denoiser, segment: Segment, state: SegmentState) -> Segment:
    """Return the segment, made by `Denoiser.start`, as it was after the state's steps. The start has redrawn the noise.

    Raises:
        ValueError: as `sampler_of`.
    """
    lead = segment.latents.shape[1] - segment.spec.latent_shape[1]
    on_device = replace(state, sampler=state.sampler.to(denoiser.device))
    sampler = sampler_of(on_device, denoiser.scheduler_config, segment.spec, lead)
    return replace(segment, sampler=sampler, latents=state.latents.to(denoiser.device))


def sampler_of(
    state: SegmentState, scheduler_config: dict[str, Any], spec: SegmentSpec, lead: int | None = None
) -> SegmentSampler:
    """Check that the state is one of a segment of this spec, and return its sampler.

    Args:
        lead: latent frames in front of the clip; None: any number, which only the conditions show.

    Raises:
        ModelError: the scheduler is not supported.
        ValueError: the state has another shape, scheduler or number of steps, missing or additional tensors, or values
            that are not finite.
    """
    c, t, h, w = spec.latent_shape
    frames = state.latents.shape[1] if lead is None and state.latents.ndim == 4 else t + (lead or 0)
    shape = (c, max(t, frames), h, w)
    for name, tensor in state.tensors().items():
        expected, dtype = (shape, torch.float32) if name == LATENTS else form_of(name, shape)
        if tuple(tensor.shape) != expected or tensor.dtype != dtype:
            found = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ValueError(f"the state's {name} are {found}, expected {expected} {dtype}")
    sampler = restore_sampler(spec, scheduler_config, state.sampler)
    for name, tensor in state.tensors().items():
        if not all(bool(extreme.isfinite()) for extreme in tensor.aminmax()):  # propagates NaN, and needs no mask
            raise ValueError(f"the state's {name} have values that are not finite")
    return sampler
