"""The sampler walks every step of its schedule, also where rounded timesteps coincide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from model.presets import ModelError
from model.sampling import Sampler, initial_noise

UNIPC: dict[str, Any] = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 16.0,
}


def test_equal_timesteps_are_different_steps() -> None:
    """100 steps at shift 16 start with 999 twice; diffusers' WanPipeline begins with the first of them."""
    sampler = Sampler(UNIPC, 100)
    theirs = UniPCMultistepScheduler.from_config(UNIPC)
    theirs.set_timesteps(100)
    theirs.set_begin_index(0)
    assert int(theirs.timesteps[0]) == int(theirs.timesteps[1]) == sampler.timestep
    mine = expected = initial_noise((2, 1, 2, 2), seed=3)
    for t in theirs.timesteps:
        mine = sampler.advance(0.5 * mine, mine)
        expected = theirs.step(0.5 * expected[None], t, expected[None], return_dict=False)[0][0]
    assert sampler.done
    assert torch.equal(mine, expected)


def test_the_share_of_noise_falls_from_one() -> None:
    sampler = Sampler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, 4)
    latents, shares = initial_noise((2, 1, 2, 2), seed=3), []
    while not sampler.done:
        shares.append(sampler.sigma)
        assert sampler.sigma == pytest.approx(sampler.timestep / 1000)
        latents = sampler.advance(torch.zeros_like(latents), latents)
    assert shares[0] == 1.0 and shares == sorted(shares, reverse=True) and shares[-1] > 0


def test_another_scheduler_is_refused() -> None:
    with pytest.raises(ModelError, match="PNDMScheduler"):
        Sampler({"_class_name": "PNDMScheduler"}, 4)
