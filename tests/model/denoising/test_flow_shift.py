"""A request's flow shift is that of its schedule, also after a snapshot; a card tells the checkpoint's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from tests.fixtures.family_checkpoints import card_in
from zoetrope.model.denoising.sampling import Sampler, initial_noise
from zoetrope.model.inspection.files import ModelError

UNIPC: dict[str, Any] = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
EULER: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "flow_shift": 9.0}
STEPS = 6


def walk(sampler: Sampler, latents: torch.Tensor, steps: int) -> torch.Tensor:
    for _ in range(steps):
        latents = sampler.advance(torch.sin(latents), latents)
    return latents


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
@pytest.mark.parametrize("config", [UNIPC, EULER], ids=["unipc", "euler"])
def test_the_schedule_is_that_of_diffusers_with_the_same_shift(config: dict[str, Any], shift: float) -> None:
    euler = config is EULER
    made = {"shift" if euler else "flow_shift": shift}
    theirs: Any = (FlowMatchEulerDiscreteScheduler if euler else UniPCMultistepScheduler).from_config(
        {**config, **made}
    )
    theirs.set_timesteps(STEPS)
    expected = noise = initial_noise((2, 1, 2, 2), seed=3)
    for t in theirs.timesteps:
        expected = theirs.step(torch.sin(expected)[None], t, expected[None], return_dict=False)[0][0]
    assert torch.equal(walk(Sampler(config, STEPS, shift), noise, STEPS), expected)
    assert not torch.equal(walk(Sampler(config, STEPS), noise, STEPS), expected)


@pytest.mark.parametrize("config", [UNIPC, EULER], ids=["unipc", "euler"])
def test_a_snapshot_goes_on_with_the_shift_of_its_request(config: dict[str, Any]) -> None:
    noise = initial_noise((2, 1, 2, 2), seed=3)
    first = Sampler(config, STEPS, 8.0)
    half = walk(first, noise, 3)
    whole = walk(Sampler(config, STEPS, 8.0), noise, STEPS)
    assert torch.equal(walk(Sampler.restore(config, STEPS, first.state(), 8.0), half, 3), whole)
    assert not torch.equal(walk(Sampler.restore(config, STEPS, first.state()), half, 3), whole)


def test_an_unknown_scheduler_is_refused_before_its_shift_is_looked_for() -> None:
    with pytest.raises(ModelError, match="PNDMScheduler"):
        Sampler({"_class_name": "PNDMScheduler"}, STEPS, 5.0)


def test_cards_tell_the_shift_and_where_it_is_from(checkpoints: Path, tmp_path: Path) -> None:
    card = card_in(checkpoints, "wan2.2-t2v-a14b")
    assert (card.default_flow_shift, card.flow_shift_note) == (12.0, "scheduler_config.json")
    path = Path(card_in(tmp_path, "wan2.2-t2v-a14b").directory) / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace('"flow_shift": 12.0', '"flow_shift": 3.0'))
    converted = card_in(tmp_path, "wan2.2-t2v-a14b")
    assert converted.default_flow_shift == 3.0
    assert converted.flow_shift_note == "scheduler_config.json; Wan's own code takes 12"
    assert card_in(checkpoints, "nano").default_flow_shift == 3.0
