"""A sampler goes on from its state, after any step, exactly as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from zoetrope.model.denoising.sampling import Sampler, SamplerState, initial_noise
from zoetrope.model.inspection.files import ModelError

STEPS = 7
SHAPE = (3, 2, 4, 5)
UNIPC: dict[str, Any] = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 1.0,
}
DPM: dict[str, Any] = {**UNIPC, "_class_name": "DPMSolverMultistepScheduler"}
EULER: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}
CONFIGS = {
    "unipc order 1": {**UNIPC, "solver_order": 1},
    "unipc order 1 shift 5": {**UNIPC, "solver_order": 1, "flow_shift": 5.0},
    "unipc order 2": UNIPC,
    "unipc order 2 shift 3": {**UNIPC, "flow_shift": 3.0},
    "unipc order 2 shift 16": {**UNIPC, "flow_shift": 16.0},
    "unipc order 2 without some corrections": {**UNIPC, "disable_corrector": [0, 3]},
    "unipc order 3": {**UNIPC, "solver_order": 3},
    "unipc order 3 shift 5": {**UNIPC, "solver_order": 3, "flow_shift": 5.0},
    "unipc order 2 karras": {**UNIPC, "use_karras_sigmas": True},
    "dpm order 1": {**DPM, "solver_order": 1},
    "dpm order 2 shift 5": {**DPM, "flow_shift": 5.0},
    "dpm order 2 heun": {**DPM, "solver_type": "heun", "flow_shift": 3.0},
    "dpm order 3": {**DPM, "solver_order": 3, "lower_order_final": False},
    "euler": EULER,
    "euler shift 3": {**EULER, "shift": 3.0},
}


def velocity(latents: torch.Tensor, sampler: Sampler) -> torch.Tensor:
    """Of no particular network, but one that is not linear in the latents."""
    return torch.sin(3 * latents) - (0.5 + sampler.sigma) * latents


def advance(sampler: Sampler, latents: torch.Tensor) -> torch.Tensor:
    return sampler.advance(velocity(latents, sampler), latents)


def carried_over(state: SamplerState) -> SamplerState:
    """As after a way through a file: nothing is shared with the sampler that it is of."""
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
    return replace(state, scalars=json.loads(json.dumps(dict(state.scalars))), tensors=tensors)


def attributes(sampler: Sampler) -> dict[str, Any]:
    """Of the scheduler, tensors as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.tolist()
        return [plain(v) for v in value] if isinstance(value, list) else value

    return {name: plain(value) for name, value in vars(sampler._scheduler).items()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("steps", [1, 2, STEPS])
def test_going_on_after_any_step_gives_the_same_latents(name: str, steps: int) -> None:
    config = CONFIGS[name]
    sampler, latents = Sampler(config, steps), initial_noise(SHAPE, seed=3)
    after = [latents]
    states = [sampler.state()]
    kept = [carried_over(states[0])]
    known = [attributes(sampler)]
    while not sampler.done:
        latents = advance(sampler, latents)
        after.append(latents)
        states.append(sampler.state())
        kept.append(carried_over(states[-1]))
        known.append(attributes(sampler))
    for k in range(steps + 1):
        for tensor_name, tensor in states[k].tensors.items():  # nobody wrote into it since
            assert torch.equal(tensor, kept[k].tensors[tensor_name])
        resumed, latents = Sampler.restore(config, steps, kept[k]), after[k].clone()
        assert resumed.step == k and resumed.done == (k == steps)
        if k < steps:  # all that the scheduler has, so that no attribute of a later diffusers is forgotten
            assert attributes(resumed) == known[k]
        for step in range(k, steps):
            latents = advance(resumed, latents)
            assert torch.equal(latents, after[step + 1]), f"from {k}, at {step}"
        assert resumed.done and bool(latents.isfinite().all())


def test_a_state_holds_no_more_than_is_needed() -> None:
    sampler, latents = Sampler({**UNIPC, "solver_order": 3}, 4), initial_noise(SHAPE, seed=1)
    counts = [len(sampler.state().tensors)]
    while not sampler.done:
        latents = advance(sampler, latents)
        counts.append(len(sampler.state().tensors))
    assert counts == [0, 2, 3, 4, 0]  # the outputs that there are and the last sample; nothing after the end


def state_after(config: dict[str, Any], steps: int, taken: int) -> SamplerState:
    sampler, latents = Sampler(config, steps), initial_noise(SHAPE, seed=1)
    for _ in range(taken):
        latents = advance(sampler, latents)
    return sampler.state()


@pytest.mark.parametrize(
    ("config", "steps", "state", "message"),
    [
        (EULER, 5, state_after(UNIPC, 5, 2), "of a UniPCMultistepScheduler, the scheduler is a FlowMatchEuler"),
        (DPM, 5, state_after(UNIPC, 5, 2), "of a UniPCMultistepScheduler, the scheduler is a DPMSolverMultistep"),
        (DPM, 5, replace(state_after(DPM, 5, 1), step=4), "keeps .*model_outputs.0"),
        (UNIPC, 3, state_after(UNIPC, 5, 4), "after step 4, which is not within 0 to 3"),
        ({**UNIPC, "solver_order": 3}, 5, state_after(UNIPC, 5, 4), "keeps .*model_outputs.2"),
        (UNIPC, 5, replace(state_after(UNIPC, 5, 1), step=4), "keeps .*model_outputs.0"),
        (UNIPC, 5, replace(state_after(UNIPC, 5, 2), scalars={}), "this_order 2.* has last_sample"),
        (UNIPC, 2, state_after(UNIPC, 5, 2), "after step 2 of 2 a UniPC.* keeps nothing"),
        (EULER, 5, replace(state_after(EULER, 5, 2), scalars={"this_order": 1}), "keeps nothing"),
    ],
)
def test_a_state_of_something_else_is_refused(
    config: dict[str, Any], steps: int, state: SamplerState, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler.restore(config, steps, state)


def test_a_scheduler_with_noise_of_its_own_is_refused() -> None:
    with pytest.raises(ModelError, match="stochastic_sampling is true"):
        Sampler({**EULER, "stochastic_sampling": True}, 4)
