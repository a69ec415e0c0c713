"""Profiles give the latents of diffusers' WanPipeline with the same list of noise levels and the same draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)

from tests.fixtures.random_checkpoints import write_a14b, write_t2v
from tests.model.parity.harness import PROMPT, SEED, denoise, denoiser_of, error, spec_of, texts, theirs
from zoetrope.model.catalog.profiles import BUILT_IN
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.request.profile import Profile
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import SamplerName, TextToVideo


def spec_with(profile: Profile, seed: int = SEED) -> VideoSpec:
    fields: dict[str, Any] = {"steps": profile.steps, "profile": profile, "seed": seed}
    return replace(spec_of(TextToVideo(prompt=PROMPT), profile.guidance[0], profile.guidance[-1]), **fields)


def listed(kind: type[Any], profile: Profile, generator: torch.Generator) -> Any:
    """One of diffusers' schedulers that takes the profile's list, whatever it is asked for, and draws as is right."""

    class Listed(kind):  # type: ignore[misc]
        def set_timesteps(self, steps: int, device: Any = None) -> None:
            told = [profile.timestep(step) for step in range(profile.steps)]
            super().set_timesteps(sigmas=list(profile.sigmas), timesteps=told, device=device)

        def step(self, *arguments: Any, **named: Any) -> Any:
            more = {"generator": generator} if kind is FlowMatchLCMScheduler else {}
            return super().step(*arguments, **named, **more)

    return Listed(shift=1.0)


def diffusers_of(pipeline: Any, profile: Profile) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(SEED)
    kind = FlowMatchEulerDiscreteScheduler if profile.sampler == "euler" else FlowMatchLCMScheduler
    pipeline.scheduler = listed(kind, profile, generator)
    return theirs(pipeline, generator=generator, guidance_scale=1.0, num_inference_steps=profile.steps)


@pytest.mark.parametrize("name", ["lightx2v-4", "lightx2v-8", "fastwan-3", "causvid-3"])
def test_one_network(tmp_path: Path, name: str) -> None:
    pipeline, profile = write_t2v(tmp_path), BUILT_IN[name]
    result = denoise(denoiser_of(pipeline, tmp_path), spec_with(profile), Conditions(texts(pipeline)[0]))
    assert error(result, diffusers_of(pipeline, profile)) <= 1e-6


@pytest.mark.parametrize("boundary", [0.875, 0.9])
def test_two_noise_experts(tmp_path: Path, boundary: float) -> None:
    pipeline, profile = write_a14b(tmp_path), BUILT_IN["lightx2v-4-a14b"]
    pipeline.register_to_config(boundary_ratio=boundary)
    result = denoise(denoiser_of(pipeline, tmp_path), spec_with(profile), Conditions(texts(pipeline)[0]))
    assert error(result, diffusers_of(pipeline, profile)) <= 1e-6


def begun(denoiser: Denoiser, conditions: Conditions, profile: Profile | None, name: str) -> Segment:
    plain = replace(spec_of(TextToVideo(prompt=PROMPT), 4.0), seed=SEED)
    return denoiser.start(segment_of(plain if profile is None else spec_with(profile), name), conditions)


def test_profiles_and_plain_segments_share_a_batch(tmp_path: Path) -> None:
    pipeline = write_a14b(tmp_path)
    denoiser, conditions = denoiser_of(pipeline, tmp_path), Conditions(*texts(pipeline))
    chosen = (None, *(BUILT_IN[name] for name in ("lightx2v-4-a14b", "fastwan-3", "rcm-4")))
    together = [begun(denoiser, conditions, profile, str(i)) for i, profile in enumerate(chosen)]
    while left := [segment for segment in together if not segment.sampler.done]:
        denoiser.step(left)
    for profile, mixed in zip(chosen, together, strict=True):
        alone = begun(denoiser, conditions, profile, "alone")
        while not alone.sampler.done:
            denoiser.step([alone])
        assert error(mixed.result(), alone.result()) <= 1e-5


CHOICES: dict[SamplerName, Any] = {
    "unipc": UniPCMultistepScheduler,
    "euler": FlowMatchEulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
}


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("shift", [None, 7.0], ids=["own shift", "another shift"])
@pytest.mark.parametrize("sampler", CHOICES)
def test_a_request_may_choose_another_sampler(
    tmp_path: Path, sampler: SamplerName, shift: float | None, steps: int
) -> None:
    """The checkpoint's is UniPC with shift 3."""
    pipeline = write_t2v(tmp_path)
    spec = replace(spec_of(TextToVideo(prompt=PROMPT)), sampler=sampler, flow_shift=shift, steps=steps)
    result = denoise(denoiser_of(pipeline, tmp_path), spec, Conditions(*texts(pipeline)))
    kept = 3.0 if shift is None else shift
    fields = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": kept}
    pipeline.scheduler = CHOICES[sampler](**({"shift": kept} if sampler == "euler" else fields))
    assert error(result, theirs(pipeline, num_inference_steps=steps)) <= 1e-5
