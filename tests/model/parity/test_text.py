"""Text to video gives the latents of diffusers' WanPipeline, with one transformer and with two noise experts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.fixtures.random_checkpoints import write_a14b, write_t2v
from tests.model.parity.harness import PROMPT, denoise, denoiser_of, error, spec_of, texts, theirs, to_bfloat16
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import TextToVideo


def spec(guidance: float, guidance_low: float | None = None) -> VideoSpec:
    return spec_of(TextToVideo(prompt=PROMPT), guidance, guidance_low)


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_one_transformer(tmp_path: Path, guidance: float) -> None:
    pipeline = write_t2v(tmp_path)
    positive, negative = texts(pipeline)
    conditions = Conditions(positive, negative if guidance > 1 else None)
    result = denoise(denoiser_of(pipeline, tmp_path), spec(guidance), conditions)
    assert error(result, theirs(pipeline, guidance_scale=guidance)) <= 1e-5


@pytest.mark.parametrize(
    ("guidance", "low"), [(4.0, None), (4.0, 2.5), (4.0, 1.0), (1.0, 3.0)], ids=["same", "two", "low-1", "high-1"]
)
def test_two_noise_experts(tmp_path: Path, guidance: float, low: float | None) -> None:
    """The last case: without guidance at high noise there is none at low noise, whatever its scale."""
    pipeline = write_a14b(tmp_path)
    denoiser = denoiser_of(pipeline, tmp_path)
    result = denoise(denoiser, spec(guidance, low), Conditions(*texts(pipeline)))
    assert error(result, theirs(pipeline, guidance_scale=guidance, guidance_scale_2=low)) <= 1e-5


def test_each_expert_has_its_steps(tmp_path: Path) -> None:
    pipeline = write_a14b(tmp_path)
    denoiser = denoiser_of(pipeline, tmp_path)
    segment = denoiser.start(segment_of(spec(1.0), "one"), Conditions(texts(pipeline)[0]))
    seen = []
    while not segment.sampler.done:
        seen.append((segment.sampler.timestep >= 875, denoiser.takes_low_noise(segment)))
        denoiser.step([segment])
    assert set(seen) == {(True, False), (False, True)}


def test_segments_on_both_sides_of_the_boundary_share_a_step(tmp_path: Path) -> None:
    pipeline = write_a14b(tmp_path)
    denoiser = denoiser_of(pipeline, tmp_path)
    positive, negative = texts(pipeline)
    early, late = (denoiser.start(segment_of(spec(3.0), name), Conditions(positive, negative)) for name in "ab")
    for _ in range(3):
        denoiser.step([late])
    assert denoiser.takes_low_noise(late) and not denoiser.takes_low_noise(early)
    denoiser.step([early, late])
    while not early.sampler.done:
        denoiser.step([early])
    assert error(early.result(), late.result()) <= 1e-5


def test_a_boundary_without_a_second_expert_means_nothing(tmp_path: Path) -> None:
    """Some converted Wan2.1 checkpoints have one."""
    pipeline = write_t2v(tmp_path)
    plain = denoiser_of(pipeline, tmp_path)
    leaked = Denoiser(plain.transformer, plain.scheduler_config, None, boundary=0.9)
    conditions = Conditions(*texts(pipeline))
    assert torch.equal(denoise(leaked, spec(4.0), conditions), denoise(plain, spec(4.0), conditions))
    with pytest.raises(ValueError, match="boundary_ratio"):
        Denoiser(plain.transformer, plain.scheduler_config, plain.transformer, None)


def test_bfloat16_is_as_good_as_that_of_diffusers(tmp_path: Path) -> None:
    pipeline = write_a14b(tmp_path)
    exact = theirs(pipeline)
    to_bfloat16(pipeline)
    limit = error(theirs(pipeline), exact)
    result = error(denoise(denoiser_of(pipeline, tmp_path), spec(4.0), Conditions(*texts(pipeline))), exact)
    assert result <= min(2e-2, 2 * limit)


def test_guidance_without_a_negative_prompt_is_refused(tmp_path: Path) -> None:
    pipeline = write_t2v(tmp_path)
    with pytest.raises(ValueError, match="negative"):
        denoiser_of(pipeline, tmp_path).start(segment_of(spec(4.0), "one"), Conditions(texts(pipeline)[0]))
