"""Sample by a profile's list of noise levels: what its rules have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from zoetrope.model.denoising.noise import restored_generator
from zoetrope.model.denoising.sampling import SamplerState
from zoetrope.model.request.profile import Profile

EXACT, GENERATOR = "exact", "generator"  # names of tensors in a state
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


class ListSampler(ABC):
    """A `model.denoising.sampling.SegmentSampler` over explicit noise levels.

    With a precision of float64 it keeps the exact latents; those that it gives and takes are rounded to float32.
    """

    draws: ClassVar[bool] = False  # whether a step draws noise

    def __init__(self, profile: Profile, generator: torch.Generator) -> None:
        """Sample by ``profile``; the generator has drawn the noise to begin with."""
        self.step = 0
        self._profile = profile
        self._generator = generator
        self._dtype = DTYPES[profile.precision]
        self._exact: torch.Tensor | None = None
        self._last: tuple[torch.Tensor, torch.Tensor, float] | None = None

    @property
    def done(self) -> bool:
        return self.step >= self._profile.steps

    @property
    def timestep(self) -> float:
        """The timestep of the next step, 0..1000."""
        return self._profile.timestep(self.step)

    @property
    def sigma(self) -> float:
        """The share of noise in the latents before the next step, 0..1."""
        return self._profile.sigmas[self.step]

    def begin(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the latents before the first step: scaled noise."""
        return self._keep(noise.to(self._dtype) * self._profile.init_scale)

    @property
    def velocity(self) -> torch.Tensor | None:
        """The velocity of the last step, ``[C, T, H, W]``; None before the first step in this process."""
        return None if self._last is None else self._last[1]

    def advance(self, velocity: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Take one step; both ``[C, T, H, W]`` float32."""
        before = latents if self._exact is None else self._exact
        self._last = (latents, velocity, self.sigma)
        levels = (*self._profile.sigmas, 0.0)
        after = self._next(before, velocity.to(before.dtype), self.sigma, levels[self.step + 1])
        self.step += 1
        return self._keep(after)

    def estimate(self) -> torch.Tensor | None:
        """Return the clip ``[C, T, H, W]`` that the last step predicts; None before the first step in this process."""
        if self._last is None:
            return None
        latents, velocity, sigma = self._last
        return latents - sigma * velocity

    def state(self) -> SamplerState:
        """Return what `restore` needs; a step replaces its tensors and never writes to them."""
        tensors: dict[str, torch.Tensor] = {}
        if not self.done:
            if self._exact is not None:
                tensors[EXACT] = self._exact[None]
            if self.draws:
                tensors[GENERATOR] = self._generator.get_state()
        return SamplerState(type(self).__name__, self.step, {}, tensors)

    @classmethod
    def restore(cls, profile: Profile, state: SamplerState) -> ListSampler:
        """Return a sampler that resumes from a state; it uses the state's tensors, not copies.

        Raises:
            ValueError: the state is of another sampler or order, or its contents differ from what this one keeps.
        """
        name, steps = cls.__name__, profile.steps
        if state.scheduler != name:
            raise ValueError(f"the state is of a {state.scheduler}, the sampler is a {name}")
        if not 0 <= state.step <= steps:
            raise ValueError(f"the state is after step {state.step}, which is not within 0 to {steps}")
        expected, found = cls._kept(profile, state.step), sorted((*state.tensors, *state.scalars))
        if found != expected:
            kept, held = (", ".join(names) or "nothing" for names in (expected, found))
            raise ValueError(f"after step {state.step} of {steps} a {name} keeps {kept}, the state has {held}")
        held_state = state.tensors.get(GENERATOR)
        sampler = cls(profile, torch.Generator() if held_state is None else restored_generator(held_state))
        sampler.step = state.step
        if EXACT in state.tensors:
            sampler._exact = state.tensors[EXACT][0]
        return sampler

    @classmethod
    def _kept(cls, profile: Profile, step: int) -> list[str]:
        """Name the tensors of a state after a step."""
        if step >= profile.steps:
            return []
        exact = [EXACT] if DTYPES[profile.precision] != torch.float32 else []
        return exact + ([GENERATOR] if cls.draws else [])

    def _keep(self, latents: torch.Tensor) -> torch.Tensor:
        """Return latents in float32; what that would round is kept."""
        if latents.dtype != torch.float32:
            self._exact = latents
        return latents.float()

    @abstractmethod
    def _next(self, latents: torch.Tensor, velocity: torch.Tensor, sigma: float, after: float) -> torch.Tensor:
        """Return the latents at the noise level ``after`` from those at ``sigma``; 0 is the clip."""
