"""Snapshots of made-up segments, for tests of how they are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.snapshots.format import Fingerprint, Snapshot
from zoetrope.model.denoising.resume import SegmentState
from zoetrope.model.denoising.sampling import Sampler, initial_noise
from zoetrope.model.request.specs import SegmentSpec

UNIPC: dict[str, Any] = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
STEPS = 12
OWNER = Owner("vid_job-1", 2, 3)


def segment_spec(**fields: Any) -> SegmentSpec:
    return replace(SegmentSpec("s", (2, 1, 2, 3), STEPS, 4.0, 7), **fields)


def fingerprint(**fields: Any) -> Fingerprint:
    return Fingerprint.of("tiny", segment_spec(**fields), UNIPC)


def snapshot(step: int, owner: Owner = OWNER, **fields: Any) -> Snapshot:
    """Of a segment after so many steps of real UniPC; the same each time."""
    spec = segment_spec(**fields)
    sampler, latents = Sampler(UNIPC, spec.steps), initial_noise(spec.latent_shape, spec.seed)
    for _ in range(step):
        latents = sampler.advance(torch.sin(latents), latents)
    return Snapshot(owner, Fingerprint.of("tiny", spec, UNIPC), SegmentState(latents, sampler.state()))


def equal(first: Snapshot, second: Snapshot) -> bool:
    """To the bit."""
    mine, others = first.state.tensors(), second.state.tensors()
    return (
        (first.owner, first.fingerprint, first.step) == (second.owner, second.fingerprint, second.step)
        and dict(first.state.sampler.scalars) == dict(second.state.sampler.scalars)
        and mine.keys() == others.keys()
        and all(torch.equal(mine[name], others[name]) for name in mine)
    )
