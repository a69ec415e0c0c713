"""A segment as it is between two steps: taken out of one engine, put into another of the same model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from model.denoise import Denoiser, Segment
from model.sampling import Sampler, SamplerState
from model.tasks import SegmentSpec

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
        ValueError: as `sampler_of`.
    """
    lead = segment.latents.shape[1] - segment.spec.latent_shape[1]
    on_device = replace(state, sampler=state.sampler.to(denoiser.device))
    sampler = sampler_of(on_device, denoiser.scheduler_config, segment.spec, lead)
    return replace(segment, sampler=sampler, latents=state.latents.to(denoiser.device))


def sampler_of(
    state: SegmentState, scheduler_config: dict[str, Any], spec: SegmentSpec, lead: int | None = None
) -> Sampler:
    """The state's sampler, once all of the state is what a segment of this spec has after so many steps.

    Args:
        lead: latent frames in front of the clip; None: any number of them, which only the conditions tell.

    Raises:
        ModelError: the scheduler is not one that we run.
        ValueError: the state is of a run of another shape, scheduler or number of steps, lacks something, has more, or
            has numbers that are not finite.
    """
    c, t, h, w = spec.latent_shape
    frames = state.latents.shape[1] if lead is None and state.latents.ndim == 4 else t + (lead or 0)
    shape = (c, max(t, frames), h, w)
    for name, tensor in state.tensors().items():
        expected = shape if name == LATENTS else (1, *shape)
        if tuple(tensor.shape) != expected or tensor.dtype != torch.float32:
            found = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ValueError(f"the state's {name} are {found}, expected {expected} torch.float32")
    sampler = Sampler.restore(scheduler_config, spec.steps, state.sampler, spec.flow_shift)
    for name, tensor in state.tensors().items():
        if not all(bool(extreme.isfinite()) for extreme in tensor.aminmax()):  # passes NaN on, and needs no mask
            raise ValueError(f"the state's {name} have values that are not finite")
    return sampler
