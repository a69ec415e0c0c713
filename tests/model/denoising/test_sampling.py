"""The sampler walks every step of its schedule, also where rounded timesteps coincide."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from zoetrope.model.catalog.schedulers import SCHEDULERS, SchedulerError, check_scheduler, shift_key, unknown_keys
from zoetrope.model.denoising.sampling import Sampler, initial_noise
from zoetrope.model.inspection.files import ModelError

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


SOLVERS: list[dict[str, Any]] = [
    UNIPC,
    {**UNIPC, "flow_shift": 3},
    *({**UNIPC, "solver_order": order} for order in (1, 3, 5)),
    {**UNIPC, "solver_type": "midpoint", "disable_corrector": [0, 1]},
    {**UNIPC, "use_karras_sigmas": True},
    {**UNIPC, "timestep_spacing": "leading", "steps_offset": 1, "beta_schedule": "scaled_linear", "sigma_min": None},
    *(
        {**UNIPC, "_class_name": "DPMSolverMultistepScheduler", "solver_order": order, "solver_type": kind, **more}
        for order in (1, 2, 3)
        for kind in ("midpoint", "heun")
        for more in ({}, {"lower_order_final": False, "flow_shift": 5.0}, {"euler_at_final": True})
    ),
    *(
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift, **more}
        for shift in (1.0, 5.0)
        for more in ({}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True, "use_dynamic_shifting": None})
    ),
]


@pytest.mark.parametrize("config", SOLVERS, ids=lambda c: " ".join(str(v) for v in c.values()))
def test_every_key_that_is_let_pass_means_what_it_means_in_diffusers(config: dict[str, Any]) -> None:
    """The loop of diffusers' Wan pipelines, over few and many steps, beside ours; all of it finite, and a clip."""
    check_scheduler(config)
    for steps in (1, 2, 3, 14, 20):
        theirs = getattr(diffusers, config["_class_name"]).from_config(config)
        theirs.set_timesteps(steps)
        theirs.set_begin_index(0)
        sampler = Sampler(config, steps)
        mine = expected = initial_noise((2, 2, 3, 3), seed=3)
        for t in theirs.timesteps:
            assert sampler.timestep == float(t) and 0 < sampler.sigma <= 1
            mine = sampler.advance(torch.sin(3 * mine) - 0.5 * mine, mine)
            expected = theirs.step(torch.sin(3 * expected[None]) - 0.5 * expected[None], t, expected[None])[0][0]
        assert sampler.done and float(theirs.sigmas[-1]) == 0, "no noise is left"
        assert bool(mine.isfinite().all()) and torch.equal(mine, expected)


@pytest.mark.parametrize("config", [c for c in SOLVERS if shift_key(c)], ids=lambda c: " ".join(map(str, c.values())))
def test_another_shift_is_another_schedule(config: dict[str, Any]) -> None:
    key = shift_key(config)
    assert key is not None
    given, written = Sampler(config, 8, 7.0), Sampler({**config, key: 7.0}, 8)
    assert torch.equal(given._scheduler.sigmas, written._scheduler.sigmas)
    assert not torch.equal(given._scheduler.sigmas, Sampler(config, 8)._scheduler.sigmas)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_key_of_the_class_is_known(name: str) -> None:
    """So that a key of a later diffusers is looked at before it is let pass."""
    signature = inspect.signature(getattr(diffusers, name).__init__)
    assert SCHEDULERS[name].keys == signature.parameters.keys() - {"self"}
    for key, rule in SCHEDULERS[name].rules.items():
        assert rule.default == signature.parameters[key].default, key


DPM = {**UNIPC, "_class_name": "DPMSolverMultistepScheduler"}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "PNDMScheduler"}, "_class_name is 'PNDMScheduler', expected one of UniPC"),
    ({"_class_name": "LCMScheduler"}, "few-step distill"),
    ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "two steps"),
    ({}, "_class_name is None"),
    ({**UNIPC, "prediction_type": "epsilon"}, 'prediction_type is "epsilon", expected "flow_prediction"'),
    ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "prediction_type is missing, which means"),
    ({**UNIPC, "use_flow_sigmas": False}, "use_flow_sigmas is false, expected true"),
    ({**UNIPC, "use_dynamic_shifting": True}, "use_dynamic_shifting is true, expected false"),
    ({**UNIPC, "shift_terminal": 0.1}, r"shift_terminal is 0\.1"),
    ({**UNIPC, "thresholding": True}, "thresholding is true"),
    ({**UNIPC, "final_sigmas_type": "sigma_min"}, 'final_sigmas_type is "sigma_min"'),
    ({**UNIPC, "lower_order_final": False}, "lower_order_final is false, expected true"),
    ({**UNIPC, "solver_type": "bh1"}, 'solver_type is "bh1"'),
    ({**UNIPC, "predict_x0": False}, "predict_x0 is false"),
    ({**UNIPC, "use_exponential_sigmas": True}, "use_exponential_sigmas is true"),
    ({**UNIPC, "use_beta_sigmas": True}, "use_beta_sigmas is true"),
    ({**UNIPC, "num_train_timesteps": 50}, "num_train_timesteps is 50, expected 1000"),
    ({**UNIPC, "flow_shift": 0}, "flow_shift is 0, expected a number from 0.01 to 100"),
    ({**UNIPC, "flow_shift": "3"}, 'flow_shift is "3", expected a number'),
    ({**UNIPC, "solver_order": 0}, "solver_order is 0, expected a whole number of 1 to 5"),
    ({**DPM, "solver_order": 4}, "solver_order is 4, expected a whole number of 1 to 3"),
    ({**DPM, "algorithm_type": "sde-dpmsolver++"}, 'algorithm_type is "sde-dpmsolver\\+\\+"'),
    ({**DPM, "use_karras_sigmas": True}, "use_karras_sigmas is true"),
    ({**DPM, "use_lu_lambdas": True}, "use_lu_lambdas is true"),
    ({**EULER, "use_dynamic_shifting": True}, "use_dynamic_shifting is true"),
    ({**EULER, "stochastic_sampling": True}, "stochastic_sampling is true"),
    ({**EULER, "invert_sigmas": True}, "invert_sigmas is true"),
    ({**EULER, "shift_terminal": 0.02}, r"shift_terminal is 0\.02"),
    ({**EULER, "use_karras_sigmas": True, "use_exponential_sigmas": True}, "are true, diffusers takes one"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_run_is_refused_by_its_key(config: dict[str, Any], message: str) -> None:
    with pytest.raises(SchedulerError, match=message):
        check_scheduler(config)
    with pytest.raises(ModelError, match=rf"scheduler_config\.json: .*{message}"):
        Sampler(config, 4)


def test_unknown_keys_are_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    config = {**UNIPC, "_diffusers_version": "0.42.1", "sigma_jitter": 0.5}
    check_scheduler(config)
    assert unknown_keys(config) == ["sigma_jitter"]
    assert torch.equal(Sampler(config, 4)._scheduler.sigmas, Sampler(UNIPC, 4)._scheduler.sigmas)
    assert not caplog.records, "not with every job"
