"""Profiles' samplers follow their formulas, go on from any step, and take a noise expert's steps as they say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from zoetrope.model.catalog.profiles import BUILT_IN
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.denoising.noise import draw_noise, noise_generator
from zoetrope.model.denoising.resume import SegmentState, resume, sampler_of, state_of
from zoetrope.model.denoising.samplers import start_sampler
from zoetrope.model.denoising.sampling import SegmentSampler
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.profile import Profile
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.tasks import Role

SHAPE = (4, 2, 4, 4)
SCHEDULER: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
NAMES = ("lightx2v-4", "fastwan-3", "rcm-4", "rcm-1")


def spec_with(profile: Profile, name: str = "one") -> SegmentSpec:
    return SegmentSpec(name, SHAPE, profile.steps, 1.0, 11, profile=profile)


def velocity(latents: torch.Tensor, sampler: SegmentSampler) -> torch.Tensor:
    return torch.sin(3 * latents) - (0.5 + sampler.sigma) * latents


def begun(profile: Profile) -> tuple[SegmentSampler, torch.Tensor]:
    generator = noise_generator(11)
    noise = draw_noise(SHAPE, generator)
    sampler = start_sampler(spec_with(profile), SCHEDULER, generator)
    return sampler, sampler.begin(noise)


@pytest.mark.parametrize("name", NAMES)
def test_the_formula(name: str) -> None:
    """In double precision, with the draws of the request's own generator in their order."""
    profile, generator = BUILT_IN[name], torch.Generator("cpu").manual_seed(11)
    sampler, latents = begun(profile)
    assert sampler.estimate() is None
    x = profile.init_scale * torch.randn((1, *SHAPE), generator=generator)[0].double()
    for step, (sigma, after) in enumerate(pairwise((*profile.sigmas, 0.0))):
        assert sampler.sigma == sigma and sampler.timestep == profile.timestep(step)
        assert latents.dtype == torch.float32
        given = velocity(latents, sampler)
        v, clean = given.double(), x - sigma * given.double()
        if profile.sampler == "euler":
            x = x + (after - sigma) * v
        else:
            fresh = torch.randn((1, *SHAPE), generator=generator)[0].double() if after else 0.0
            x = (1 - after) * clean + after * fresh
        latents = sampler.advance(given, latents)
        estimate = sampler.estimate()
        assert estimate is not None
        torch.testing.assert_close(estimate.double(), clean, rtol=0, atol=2e-6)
        torch.testing.assert_close(latents.double(), x, rtol=0, atol=2e-6)
    assert sampler.done and bool(latents.isfinite().all())


def test_double_precision_is_kept_between_the_steps() -> None:
    """Rounding the latents to float32 after each step gives others."""
    exact = BUILT_IN["rcm-4"]
    results = []
    for profile in (exact, replace(exact, precision="float32")):
        sampler, latents = begun(profile)
        while not sampler.done:
            latents = sampler.advance(velocity(latents, sampler), latents)
        results.append(latents)
    assert not torch.equal(*results)
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def network(seed: int = 0) -> WanTransformer:
    torch.manual_seed(seed)
    config = TransformerConfig(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        text_dim=8,
        ffn_dim=16,
        num_layers=1,
    )
    return WanTransformer(config).eval().requires_grad_(False)


def started(denoiser: Denoiser, profile: Profile) -> Segment:
    text = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    return denoiser.start(spec_with(profile), Conditions(text))


def carried_over(state: SegmentState) -> SegmentState:
    return state.with_tensors({name: tensor.clone() for name, tensor in state.tensors().items()})


@pytest.mark.parametrize("name", NAMES)
def test_going_on_after_any_step_gives_the_same_latents(name: str) -> None:
    denoiser, profile = Denoiser(network(), SCHEDULER), BUILT_IN[name]
    segment = started(denoiser, profile)
    states = [carried_over(state_of(segment))]
    while not segment.sampler.done:
        denoiser.step([segment])
        states.append(carried_over(state_of(segment)))
    for state in states:
        resumed = resume(denoiser, started(denoiser, profile), state)
        assert resumed.sampler.step == state.step and resumed.estimate() is None
        while not resumed.sampler.done:
            denoiser.step([resumed])
        assert torch.equal(resumed.result(), segment.result())
    assert states[-1].tensors().keys() == {"latents"}, "nothing but the result after the last step"


def state_after(profile: Profile, steps: int) -> SegmentState:
    sampler, latents = begun(profile)
    for _ in range(steps):
        latents = sampler.advance(velocity(latents, sampler), latents)
    return SegmentState(latents, sampler.state())


def test_states_that_do_not_fit_are_refused() -> None:
    rcm, euler = BUILT_IN["rcm-4"], BUILT_IN["lightx2v-4"]
    good = state_after(rcm, 2)
    assert sampler_of(good, SCHEDULER, spec_with(rcm)).step == 2
    tensors = good.tensors()
    with pytest.raises(ValueError, match="of a ListRenoise, the sampler is a ListEuler"):
        sampler_of(good, SCHEDULER, spec_with(euler))
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        sampler_of(good, SCHEDULER, replace(spec_with(rcm), profile=None))
    with pytest.raises(ValueError, match="keeps exact, generator, the state has exact"):
        sampler_of(good.with_tensors({k: v for k, v in tensors.items() if k != "generator"}), SCHEDULER, spec_with(rcm))
    with pytest.raises(ValueError, match=r"generator are \(7,\) torch.uint8, expected \(5056,\)"):
        sampler_of(good.with_tensors(tensors | {"generator": tensors["generator"][:7]}), SCHEDULER, spec_with(rcm))
    with pytest.raises(ValueError, match="the state of the generator is malformed"):
        garbage = torch.full_like(tensors["generator"], 255)
        sampler_of(good.with_tensors(tensors | {"generator": garbage}), SCHEDULER, spec_with(rcm))
    with pytest.raises(ValueError, match=r"exact are .* torch\.float32, expected"):
        sampler_of(good.with_tensors(tensors | {"exact": tensors["exact"].float()}), SCHEDULER, spec_with(rcm))
    with pytest.raises(ValueError, match="exact have values that are not finite"):
        sampler_of(good.with_tensors(tensors | {"exact": tensors["exact"] * torch.inf}), SCHEDULER, spec_with(rcm))
    with pytest.raises(ValueError, match="after step 9"):
        late = replace(good, sampler=replace(good.sampler, step=9))
        sampler_of(late, SCHEDULER, spec_with(rcm))


@pytest.mark.parametrize("boundary", [0.875, 0.9])
@pytest.mark.parametrize(
    ("name", "low"),
    [
        ("lightx2v-4-a14b", [False, False, True, True]),
        ("lightning-4", [False, False, True, True]),
        ("lightx2v-4-a14b-flf2v", [False, False, True, True]),  # its boundary alone would give the third to the first
        ("turbo-4", [False, False, True, True]),
        ("turbo-2", [False, False]),
    ],
)
def test_the_noise_experts_take_turns_as_the_profile_says(name: str, low: list[bool], boundary: float) -> None:
    profile, denoiser = BUILT_IN[name], Denoiser(network(), SCHEDULER, network(1), boundary)
    segment = started(denoiser, profile)
    seen = []
    while not segment.sampler.done:
        seen.append(denoiser.takes_low_noise(segment))
        denoiser.step([segment])
    assert seen == low


def test_gangs_of_one_expert_hand_a_segment_over_at_the_switch() -> None:
    profile, high, low = BUILT_IN["lightx2v-4-a14b-flf2v"], network(), network(1)
    both = Denoiser(high, SCHEDULER, low, 0.9)
    whole = started(both, profile)
    while not whole.sampler.done:
        both.step([whole])
    roles: tuple[tuple[Role, WanTransformer], ...] = (("high", high), ("low", low))
    first, second = (Denoiser(part, SCHEDULER, None, 0.9, role=role) for role, part in roles)
    segment = started(first, profile)
    while first.takes(segment):
        first.step([segment])
    assert segment.sampler.step == 2
    moved = resume(second, started(second, profile), carried_over(state_of(segment)))
    while not moved.sampler.done:
        assert second.takes(moved)
        second.step([moved])
    assert torch.equal(moved.result(), whole.result())


def test_one_network_has_no_switch() -> None:
    denoiser = Denoiser(network(), SCHEDULER)
    segment = started(denoiser, BUILT_IN["lightx2v-4-a14b"])
    while not segment.sampler.done:
        assert not denoiser.takes_low_noise(segment)
        denoiser.step([segment])
