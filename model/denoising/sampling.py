"""Sample from noise to a clip by one of diffusers' schedulers: one instance per segment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from zoetrope.model.catalog.schedulers import SchedulerError, check_scheduler, chosen, unknown_keys
from zoetrope.model.denoising.noise import draw_noise, noise_generator
from zoetrope.model.inspection.files import ModelError

CLASSES: dict[str, Any] = {
    "DPMSolverMultistepScheduler": DPMSolverMultistepScheduler,
    "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
    "UniPCMultistepScheduler": UniPCMultistepScheduler,
}
# For multistep schedulers: the counters that they keep beside the network's last outputs, the tensors, and whether they
# list the timesteps of those outputs.
MEMORIES: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    "DPMSolverMultistepScheduler": (("lower_order_nums",), (), False),
    "UniPCMultistepScheduler": (("lower_order_nums", "this_order"), ("last_sample",), True),
}


@dataclass(frozen=True)
class SamplerState:
    """What a sampler keeps between steps: enough to resume in another process or on another device.

    Attributes:
        scheduler: name of the class.
        step: the number of steps taken.
        scalars: counters, JSON-serialisable.
        tensors: none after the last step; the sampler's own, not copies. A scheduler's are ``[1, C, T, H, W]`` float32;
            `model.denoising.samplers.form_of` tells those of the others.
    """

    scheduler: str
    step: int
    scalars: Mapping[str, int]
    tensors: Mapping[str, torch.Tensor]

    def to(self, device: torch.device) -> SamplerState:
        """Return the state with its tensors on a device."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})


class SegmentSampler(Protocol):
    """What takes a segment from noise to its clip, whatever the rule; `model.denoising.samplers` lists the kinds."""

    step: int  # taken so far

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""

    @property
    def timestep(self) -> float:
        """What the network is told before the next step, 0..1000."""

    @property
    def sigma(self) -> float:
        """The share of noise in the latents before the next step, 0..1."""

    @property
    def velocity(self) -> torch.Tensor | None:
        """The velocity of the last step, ``[C, T, H, W]``; None before the first step in this process."""

    def begin(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the latents before the first step from noise ``[C, T, H, W]`` float32."""

    def advance(self, velocity: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Take one step; all ``[C, T, H, W]`` float32."""

    def estimate(self) -> torch.Tensor | None:
        """Return the clip ``[C, T, H, W]`` that the last step predicts; None before the first step in this process."""

    def state(self) -> SamplerState:
        """Return what a sampler of the same kind resumes from. It does not change with later steps."""


class Sampler:
    """A scheduler and its progress; segments at different steps and with different step counts share a batch."""

    def __init__(self, config: dict[str, Any], steps: int, flow_shift: float | None = None) -> None:
        """Make a schedule of ``steps``; ``flow_shift`` overrides the configuration's shift.

        Raises:
            ModelError: the scheduler is not supported.
        """
        config = chosen(config, None, flow_shift)
        try:
            check_scheduler(config)
        except SchedulerError as error:
            raise ModelError(f"scheduler_config.json: {error}") from None
        ignored = unknown_keys(config)  # reported once, when the folder was read
        known = {key: value for key, value in config.items() if key not in ignored}
        self._scheduler = CLASSES[config["_class_name"]].from_config(known)
        self._scheduler.set_timesteps(steps)
        # With many steps and a large shift, timesteps round to equal values, and a scheduler may look up the wrong one.
        self._scheduler.set_begin_index(0)
        self.step = 0
        self._last: tuple[torch.Tensor, torch.Tensor, float] | None = None

    @property
    def done(self) -> bool:
        return self.step >= len(self._scheduler.timesteps)

    @property
    def timestep(self) -> float:
        """The timestep of the next step, 0..1000."""
        return float(self._scheduler.timesteps[self.step])

    @property
    def sigma(self) -> float:
        """The share of noise in the latents before the next step, 0..1."""
        return float(self._scheduler.sigmas[self.step])

    def begin(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the latents before the first step: the noise itself."""
        return noise

    def advance(self, velocity: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Take one step; both ``[C, T, H, W]`` float32."""
        t = self._scheduler.timesteps[self.step]
        self._last = (latents, velocity, self.sigma)
        result: torch.Tensor = self._scheduler.step(velocity[None], t, latents[None], return_dict=False)[0][0]
        self.step += 1
        return result

    @property
    def velocity(self) -> torch.Tensor | None:
        """The velocity of the last step, ``[C, T, H, W]``; None before the first step in this process."""
        return None if self._last is None else self._last[1]

    def estimate(self) -> torch.Tensor | None:
        """Return the clip ``[C, T, H, W]`` that the last step predicts; None before the first step in this process.

        For a rectified flow, ``latents = (1 - sigma) * clip + sigma * noise`` with ``velocity = noise - clip``.
        """
        if self._last is None:
            return None
        latents, velocity, sigma = self._last
        return latents - sigma * velocity

    def state(self) -> SamplerState:
        """Return what `restore` needs. Schedulers replace their tensors and never write to them, so a state does not
        change."""
        scheduler, name = self._scheduler, type(self._scheduler).__name__
        if name not in MEMORIES or self.done or self.step == 0:
            return SamplerState(name, self.step, {}, {})
        scalars, tensors, _ = MEMORIES[name]
        kept = {f"model_outputs.{i}": t for i, t in enumerate(scheduler.model_outputs) if t is not None}
        return SamplerState(
            name,
            self.step,
            {key: getattr(scheduler, key) for key in scalars},
            {**kept, **{key: getattr(scheduler, key) for key in tensors}},
        )

    @classmethod
    def blank_state(
        cls, config: dict[str, Any], steps: int, step: int, flow_shift: float | None = None
    ) -> SamplerState:
        """Return what `state` gives after ``step`` of ``steps``, with one-element tensors of arbitrary values.

        Found by taking the steps, 0.5 ms each: what counters hold is internal to diffusers and may change.
        """
        sampler, latents = cls(config, steps, flow_shift), torch.zeros(1, 1, 1, 1)
        for _ in range(step):
            latents = sampler.advance(torch.zeros_like(latents), latents)
        return sampler.state()

    @classmethod
    def restore(
        cls, config: dict[str, Any], steps: int, state: SamplerState, flow_shift: float | None = None
    ) -> Sampler:
        """Return a sampler that resumes after ``state.step`` of ``steps``; it uses the state's tensors, not copies.

        Raises:
            ModelError: as the constructor.
            ValueError: the state is of another scheduler or order, or its contents differ from what this one keeps.
        """
        sampler = cls(config, steps, flow_shift)
        scheduler, name = sampler._scheduler, type(sampler._scheduler).__name__
        if state.scheduler != name:
            raise ValueError(f"the state is of a {state.scheduler}, the scheduler is a {name}")
        if not 0 <= state.step <= steps:
            raise ValueError(f"the state is after step {state.step}, which is not within 0 to {steps}")
        blank = cls.blank_state(config, steps, state.step, flow_shift)
        if state.tensors.keys() != blank.tensors.keys() or dict(state.scalars) != dict(blank.scalars):
            expected, found = _contents(blank), _contents(state)
            raise ValueError(f"after step {state.step} of {steps} a {name} keeps {expected}, the state has {found}")
        sampler.step = state.step
        if blank.tensors:
            _restore_memory(scheduler, replace(blank, tensors=state.tensors))
        if state.step:
            scheduler._step_index = state.step
        return sampler


def _contents(state: SamplerState) -> str:
    """Describe a state for messages."""
    scalars = [f"{name} {value}" for name, value in sorted(state.scalars.items())]
    return ", ".join([*scalars, *sorted(state.tensors)]) or "nothing"


def _restore_memory(scheduler: Any, state: SamplerState) -> None:
    scalar_names, tensor_names, lists_timesteps = MEMORIES[state.scheduler]
    order = int(scheduler.config.solver_order)
    for i in range(order - min(order, state.step), order):  # the last ones, one per step taken
        scheduler.model_outputs[i] = state.tensors[f"model_outputs.{i}"]
        if lists_timesteps:
            scheduler.timestep_list[i] = scheduler.timesteps[state.step - order + i]
    for key in tensor_names:
        setattr(scheduler, key, state.tensors[key])
    for key in scalar_names:
        setattr(scheduler, key, state.scalars[key])


def initial_noise(shape: tuple[int, int, int, int], seed: int) -> torch.Tensor:
    """Draw the noise that diffusers' pipelines draw for one clip: ``[C, T, H, W]`` float32."""
    return draw_noise(shape, noise_generator(seed))
