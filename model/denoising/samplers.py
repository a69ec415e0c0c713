"""Choose a segment's sampler: a profile's, or the scheduler of its checkpoint or request.

A new kind for profiles adds its file and a line.
"""

from __future__ import annotations

from typing import Any

import torch

from zoetrope.model.catalog.schedulers import chosen
from zoetrope.model.denoising.list_euler import ListEuler
from zoetrope.model.denoising.list_renoise import ListRenoise
from zoetrope.model.denoising.list_sampler import EXACT, GENERATOR, ListSampler
from zoetrope.model.denoising.noise import STATE_BYTES
from zoetrope.model.denoising.sampling import Sampler, SamplerState, SegmentSampler
from zoetrope.model.request.profile import ProfileSampler
from zoetrope.model.request.specs import SegmentSpec

LIST_SAMPLERS: dict[ProfileSampler, type[ListSampler]] = {
    "euler": ListEuler,
    "renoise": ListRenoise,
}


def start_sampler(spec: SegmentSpec, scheduler_config: dict[str, Any], generator: torch.Generator) -> SegmentSampler:
    """Return a segment's sampler before its first step.

    Args:
        scheduler_config: of the checkpoint. generator: of `model.denoising.noise`, which has drawn the first noise.

    Raises:
        ModelError: the scheduler is not supported.
    """
    if spec.profile is not None:
        return LIST_SAMPLERS[spec.profile.sampler](spec.profile, generator)
    return Sampler(chosen(scheduler_config, spec.sampler, spec.flow_shift), spec.steps)


def restore_sampler(spec: SegmentSpec, scheduler_config: dict[str, Any], state: SamplerState) -> SegmentSampler:
    """Return a segment's sampler as it was when it gave the state; it uses the state's tensors, not copies.

    Raises:
        ModelError: as `start_sampler`.
        ValueError: the state is of another sampler or order, or its contents differ from what this one keeps.
    """
    if spec.profile is None:
        return Sampler.restore(chosen(scheduler_config, spec.sampler, spec.flow_shift), spec.steps, state)
    return LIST_SAMPLERS[spec.profile.sampler].restore(spec.profile, state)


def schedule_of(spec: SegmentSpec, scheduler_config: dict[str, Any]) -> dict[str, Any]:
    """Return plain values that decide a segment's schedule; ``_class_name`` names its sampler."""
    profile = spec.profile
    if profile is None:
        return chosen(scheduler_config, spec.sampler, spec.flow_shift)
    return {
        "_class_name": LIST_SAMPLERS[profile.sampler].__name__,
        "sigmas": profile.sigmas,
        "timesteps": profile.timesteps,
        "init_scale": profile.init_scale,
        "precision": profile.precision,
        "experts_at": profile.experts_at,
    }


def form_of(name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], torch.dtype]:
    """Return shape and type of a tensor in the state of a sampler of latents ``[C, T, H, W]``."""
    if name == GENERATOR:
        return (STATE_BYTES,), torch.uint8
    return (1, *shape), torch.float64 if name == EXACT else torch.float32
