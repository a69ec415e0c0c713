"""Check from its configuration that a scheduler is supported. Needs no torch.

Every scheduler is diffusers' own class, so accepted keys mean here what they mean there. Refused are schedulers that
would give noise or NaN for a flow (rectified flow: latents = (1 - sigma) * clip + sigma * noise), draw their own noise,
do not take exactly one step per timestep, or need input that only another pipeline has. The checks run when a folder
is read; tests compare every accepted kind with diffusers' own loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoetrope.model.request.tasks import MAX_FLOW_SHIFT, MIN_FLOW_SHIFT, SamplerName

FILE = "scheduler/scheduler_config.json"
TRAIN_TIMESTEPS = 1000
_BETAS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")  # unused by flow sigmas
_SPACING = ("timestep_spacing", "steps_offset")  # unused by flow sigmas


class SchedulerError(ValueError):
    """A scheduler is not supported; the message begins with the key at fault."""


@dataclass(frozen=True)
class Rule:
    """The values that a key may have. ``default``: diffusers' own if the key is missing; ``why`` ends the message."""

    default: Any
    allowed: tuple[Any, ...]
    why: str

    def broken(self, key: str, config: Mapping[str, Any]) -> str | None:
        value = config.get(key, self.default)
        if any(type(value) is type(one) and value == one for one in self.allowed):
            return None
        said = f"is {_json(value)}" if key in config else f"is missing, which means {_json(value)}"
        expected = (
            " or ".join(dict.fromkeys(_json(one) for one in self.allowed if one or len(self.allowed) == 1)) or "false"
        )
        return f"{key} {said}, expected {expected}: {self.why}"


@dataclass(frozen=True)
class SchedulerKind:
    """A scheduler class of diffusers. ``free``: keys that may have any value; ``rules``: keys with a few allowed
    values; ``numbers``: keys with a range."""

    shift: str
    rules: Mapping[str, Rule]
    numbers: Mapping[str, tuple[Callable[[Any], bool], str]]
    free: tuple[str, ...]

    @property
    def keys(self) -> frozenset[str]:
        return frozenset((self.shift, *self.rules, *self.numbers, *self.free))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_shift(value: Any) -> bool:
    return type(value) in (int, float) and MIN_FLOW_SHIFT <= value <= MAX_FLOW_SHIFT


def _is_order(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 1 <= value <= most


_NO = (False, None)
_SHIFT = (_is_shift, f"a number from {MIN_FLOW_SHIFT:g} to {MAX_FLOW_SHIFT:g}")
_TRAINED = Rule(TRAIN_TIMESTEPS, (TRAIN_TIMESTEPS,), "Wan's networks know timesteps of 0 to 1000")
_FIXED_SHIFT = Rule(False, _NO, "a shift that depends on the size of a clip is not one of Wan's")
_NO_BETA = Rule(False, _NO, "beta sigmas are not supported")
_FLOW: dict[str, Rule] = {
    "num_train_timesteps": _TRAINED,
    "prediction_type": Rule("epsilon", ("flow_prediction",), "Wan's networks predict the velocity of a flow"),
    "use_flow_sigmas": Rule(False, (True,), "the noise levels of a flow go from 0 to 1"),
    "use_dynamic_shifting": _FIXED_SHIFT,
    "use_beta_sigmas": _NO_BETA,
    "use_exponential_sigmas": Rule(False, _NO, "diffusers takes sigmas above 1 for them, which no flow has"),
    "final_sigmas_type": Rule("zero", ("zero",), "noise would be left in the clip"),
    "thresholding": Rule(False, _NO, "it clips latents as if they were pixels"),
}
_NO_END = Rule(None, (None, 0, 0.0, False), "a schedule that is stretched to a last noise level is not supported")

SCHEDULERS: dict[str, SchedulerKind] = {
    "UniPCMultistepScheduler": SchedulerKind(
        "flow_shift",
        {
            **_FLOW,
            "shift_terminal": _NO_END,
            "predict_x0": Rule(True, (True,), "diffusers has no other way for a flow"),
            "solver_type": Rule(
                "bh2", ("bh2", "midpoint", "heun", "logrho"), "its last step, to noise level 0, gives no number"
            ),
            "lower_order_final": Rule(True, (True,), "its last step, to noise level 0, gives no number"),
            "solver_p": Rule(None, (None,), "a second solver is not supported"),
        },
        {"flow_shift": _SHIFT, "solver_order": (_is_order(5), "a whole number of 1 to 5")},
        (
            *(*_BETAS, *_SPACING, "dynamic_thresholding_ratio", "sample_max_value", "time_shift_type"),
            *("disable_corrector", "use_karras_sigmas", "sigma_min", "sigma_max"),
        ),
    ),
    "DPMSolverMultistepScheduler": SchedulerKind(
        "flow_shift",
        {
            **_FLOW,
            "algorithm_type": Rule(
                "dpmsolver++", ("dpmsolver++",), "the others draw noise of their own or cannot run a flow"
            ),
            "solver_type": Rule(
                "midpoint", ("midpoint", "heun", "logrho", "bh1", "bh2"), "diffusers has no other for this scheduler"
            ),
            "use_karras_sigmas": Rule(False, _NO, "diffusers takes sigmas above 1 for them, which no flow has"),
            "use_lu_lambdas": Rule(False, _NO, "diffusers takes sigmas above 1 for them, which no flow has"),
            "variance_type": Rule(None, (None,), "Wan's networks predict no variance"),
        },
        {"flow_shift": _SHIFT, "solver_order": (_is_order(3), "a whole number of 1 to 3")},
        (
            *(*_BETAS, *_SPACING, "dynamic_thresholding_ratio", "sample_max_value", "time_shift_type"),
            *("lower_order_final", "euler_at_final", "lambda_min_clipped"),
        ),
    ),
    "FlowMatchEulerDiscreteScheduler": SchedulerKind(
        "shift",
        {
            "num_train_timesteps": _TRAINED,
            "use_dynamic_shifting": _FIXED_SHIFT,
            "use_beta_sigmas": _NO_BETA,
            "invert_sigmas": Rule(False, _NO, "Wan's networks go from noise level 1 to 0"),
            "shift_terminal": _NO_END,
            "stochastic_sampling": Rule(False, _NO, "its noise is not the seed's"),
        },
        {"shift": _SHIFT},
        (
            *("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"),
            *("use_karras_sigmas", "use_exponential_sigmas"),
        ),
    ),
}
# The classes that a request may choose, with what makes them one for a flow.
_FOR_A_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
CHOICES: dict[SamplerName, dict[str, Any]] = {
    "unipc": {"_class_name": "UniPCMultistepScheduler", **_FOR_A_FLOW},
    "euler": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    "dpm++": {"_class_name": "DPMSolverMultistepScheduler", **_FOR_A_FLOW},
}
_DISTILL = "it is one of a few-step distill, whose profile must be given (--profile, ZOETROPE_PROFILE)"
# Unsupported schedulers that are found with Wan checkpoints or distills of them, and why.
REFUSED = {
    "LCMScheduler": _DISTILL,
    "FlowMatchLCMScheduler": _DISTILL,
    "FlowMatchHeunDiscreteScheduler": "it takes two steps for each that is asked for",
    "DEISMultistepScheduler": "it leaves noise in the clip",
    "SASolverScheduler": "it draws noise of its own",
}


def check_scheduler(config: Mapping[str, Any]) -> None:
    """Check that a scheduler is supported.

    Raises:
        SchedulerError: names the first key at fault, its value and the expected value.
    """
    name = config.get("_class_name")
    kind = SCHEDULERS.get(str(name))
    if kind is None:
        why = f": {REFUSED[str(name)]}" if name in REFUSED else ""
        raise SchedulerError(f"_class_name is {name!r}, expected one of {', '.join(SCHEDULERS)}{why}")
    for problem in _problems(kind, config):
        raise SchedulerError(problem)


def shift_key(config: Mapping[str, Any]) -> str | None:
    """Return the key of the flow shift; None if the schedule has no shift."""
    kind = SCHEDULERS.get(str(config.get("_class_name")))
    if kind is None or (kind.shift == "flow_shift" and config.get("use_karras_sigmas")):
        return None
    return kind.shift


def chosen(config: Mapping[str, Any], sampler: SamplerName | None, flow_shift: float | None) -> dict[str, Any]:
    """Return the configuration of the scheduler that a request gets.

    Args:
        config: of the checkpoint's scheduler. sampler: another class, with diffusers' defaults but for the flow shift,
            which stays; None, or the checkpoint's own class: unchanged. flow_shift: another shift.
    """
    made = dict(config)
    if sampler is not None and CHOICES[sampler]["_class_name"] != config.get("_class_name"):
        made = {**CHOICES[sampler], "num_train_timesteps": TRAIN_TIMESTEPS}
        old, new = shift_key(config), shift_key(made)
        if old is not None and new is not None and old in config:
            made[new] = config[old]
    key = shift_key(made)
    return made if flow_shift is None or key is None else {**made, key: flow_shift}


def unknown_keys(config: Mapping[str, Any]) -> list[str]:
    """List the keys that the scheduler's class does not have; diffusers ignores them with a warning."""
    kind = SCHEDULERS[str(config["_class_name"])]
    return sorted(key for key in config.keys() - kind.keys if not key.startswith("_"))


def _problems(kind: SchedulerKind, config: Mapping[str, Any]) -> Iterator[str]:
    for key, rule in kind.rules.items():
        if problem := rule.broken(key, config):
            yield problem
    for key, (holds, expected) in kind.numbers.items():
        if key in config and not holds(config[key]):
            yield f"{key} is {_json(config[key])}, expected {expected}"
    chosen = [key for key in ("use_karras_sigmas", "use_exponential_sigmas") if config.get(key)]
    if len(chosen) > 1:
        yield f"{' and '.join(chosen)} are true, diffusers takes one of them"
