"""The walk from noise to a clip: one diffusers scheduler instance for each segment."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from model.presets import ModelError

SCHEDULERS: dict[str, Any] = {
    "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
    "UniPCMultistepScheduler": UniPCMultistepScheduler,
}


class Sampler:
    """A scheduler and how far it has come; segments at different steps and step counts share a batch."""

    def __init__(self, config: dict[str, Any], steps: int) -> None:
        """Raises ModelError when ``_class_name`` is not a scheduler that we run."""
        name = config.get("_class_name")
        if name not in SCHEDULERS:
            raise ModelError(f"scheduler_config.json: _class_name is {name!r}, expected one of {', '.join(SCHEDULERS)}")
        self._scheduler = SCHEDULERS[name].from_config(config)
        self._scheduler.set_timesteps(steps)
        # Many steps with a large shift round to equal timesteps, among which a scheduler may look for the wrong one.
        self._scheduler.set_begin_index(0)
        self.step = 0

    @property
    def done(self) -> bool:
        return self.step >= len(self._scheduler.timesteps)

    @property
    def timestep(self) -> float:
        """Of the next step, 0..1000."""
        return float(self._scheduler.timesteps[self.step])

    @property
    def sigma(self) -> float:
        """The share of noise in the latents before the next step, 0..1."""
        return float(self._scheduler.sigmas[self.step])

    def advance(self, velocity: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Take one step; both ``[C, T, H, W]`` float32."""
        t = self._scheduler.timesteps[self.step]
        result: torch.Tensor = self._scheduler.step(velocity[None], t, latents[None], return_dict=False)[0][0]
        self.step += 1
        return result


def initial_noise(shape: tuple[int, int, int, int], seed: int) -> torch.Tensor:
    """The noise that diffusers' pipelines draw for one clip: ``[C, T, H, W]`` float32 from a CPU generator."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((1, *shape), generator=generator, dtype=torch.float32)[0]
