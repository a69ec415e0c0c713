"""Describe how a few-step distill samples: a locked list of noise levels. Needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal, get_args

ProfileSampler = Literal["euler", "renoise"]
Precision = Literal["float32", "float64"]
# Fields of a request that a profile may lock. What follows from the list of noise levels is always locked.
ALWAYS_LOCKED = ("steps", "flow_shift", "sampler", "quality")
LOCKABLE = (*ALWAYS_LOCKED, "guidance")
MAX_PROFILE_STEPS = 16
MIN_FIRST_SIGMA = 0.9  # exclusive: a clip starts from noise
MAX_PROFILE_GUIDANCE = 30.0
MAX_NAME_CHARS = 64


class ProfileError(ValueError):
    """A profile is malformed; the message begins with the field at fault."""


@dataclass(frozen=True)
class Profile:
    """A locked sampling recipe of a few-step distill.

    Attributes:
        sampler: ``euler``: ``x + (next - sigma) * v``, deterministic; ``renoise``: predict the clip, then mix it with
            fresh noise to the next level.
        sigmas: the noise level before each step, after any shift, falling; the level after the last is 0.
        timesteps: what the network is told, 0..1000; None: 1000 times the noise levels.
        init_scale: factor of the first noise (rCM starts at its first noise level).
        precision: of the latents between steps.
        guidance: one scale, or one for each of two noise experts, high first. Up to 1 there is one branch, without a
            negative prompt.
        experts_at: the first step of the low-noise expert of two; None: where the timestep falls below the model's
            boundary.
        shift: the flow shift that the noise levels contain; None: they come from no shift.
        locked: fields of a request that may not differ from the profile.
        note: what it belongs to, for people.
        fits: presets (`model.families`) whose weights it may be used with; empty: any.

    Raises:
        ProfileError: a field breaks a limit.
    """

    name: str
    sampler: ProfileSampler
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...] | None = None
    init_scale: float = 1.0
    precision: Precision = "float32"
    guidance: tuple[float, ...] = (1.0,)
    experts_at: int | None = None
    shift: float | None = None
    locked: tuple[str, ...] = LOCKABLE
    note: str = ""
    fits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(0 < len(self.name) <= MAX_NAME_CHARS, "name", f"has {len(self.name)} characters, 1 to {MAX_NAME_CHARS}")
        for field, text in (("name", self.name), ("note", self.note)):
            _check(text.isprintable(), field, f"is {text!r}, must be printable")
        _one_of("sampler", self.sampler, get_args(ProfileSampler))
        _one_of("precision", self.precision, get_args(Precision))
        self._check_sigmas()
        self._check_timesteps()
        _check(0 < self.init_scale <= 1, "init_scale", f"is {self.init_scale}, must be above 0 and at most 1")
        count = len(self.guidance)
        _check(count in (1, 2), "guidance", f"has {count} entries, must have one, or one for each noise expert")
        for value in self.guidance:
            inside = 0 <= value <= MAX_PROFILE_GUIDANCE
            _check(inside, "guidance", f"has {value}, must be from 0 to {MAX_PROFILE_GUIDANCE:g}")
        high, low = self.guidance[0], self.guidance[-1]
        acts = not high <= 1 < low
        _check(acts, "guidance", f"has {low} after {high}: where the first is not above 1, the second has no effect")
        steps = len(self.sigmas)
        if self.experts_at is not None:
            inside = 0 < self.experts_at < steps
            _check(inside, "experts_at", f"is {self.experts_at}, must be from 1 to {steps - 1}, for {steps} steps")
        _check(self.shift is None or self.shift > 0, "shift", f"is {self.shift}, must be above 0")
        for name in self.locked:
            _one_of("locked", name, LOCKABLE)
        for name in ALWAYS_LOCKED:
            _check(name in self.locked, "locked", f"lacks {name}, which the list of noise levels decides")

    @property
    def steps(self) -> int:
        return len(self.sigmas)

    def timestep(self, step: int) -> float:
        """Return what the network is told before a step, 0..1000."""
        return 1000 * self.sigmas[step] if self.timesteps is None else self.timesteps[step]

    def takes_low_noise(self, step: int, boundary: float) -> bool:
        """Tell whether the low-noise expert of two takes a step. ``boundary``: a timestep, 0..1000."""
        return self.timestep(step) < boundary if self.experts_at is None else step >= self.experts_at

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON or TOML: fields that have their default are left out."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, object], name: str | None = None) -> Profile:
        """Read a profile that a user defines, for example the table ``[profile]`` of a model card.

        Args:
            name: for a table without one of its own.

        Raises:
            ProfileError: a field is unknown, missing, of another type, or breaks a limit.
        """
        given = dict(data)
        if name is not None:
            given.setdefault("name", name)
        known = {f.name for f in fields(cls)}
        for key in given:
            _one_of("profile", key, sorted(known))
        for key in ("name", "sampler", "sigmas"):
            _check(key in given, key, "is missing")
        read: dict[str, Any] = {}
        for key, value in given.items():
            read[key] = None if value is None and key in _OPTIONAL else _READ[key](key, value)
        return cls(**read)

    def _check_sigmas(self) -> None:
        count = len(self.sigmas)
        inside = 1 <= count <= MAX_PROFILE_STEPS
        _check(inside, "sigmas", f"has {count} noise levels, 1 to {MAX_PROFILE_STEPS} are allowed")
        for value in self.sigmas:
            _check(0 < value <= 1, "sigmas", f"has {value}, must be above 0 and at most 1")
        for before, after in pairwise(self.sigmas):
            _check(after < before, "sigmas", f"has {after} after {before}, noise levels must fall")
        first = self.sigmas[0]
        _check(first > MIN_FIRST_SIGMA, "sigmas", f"begins with {first}, must be above {MIN_FIRST_SIGMA}")

    def _check_timesteps(self) -> None:
        if self.timesteps is None:
            return
        told, count = len(self.timesteps), len(self.sigmas)
        _check(told == count, "timesteps", f"has {told} entries, sigmas has {count}")
        for value in self.timesteps:
            _check(0 < value <= 1000, "timesteps", f"has {value}, must be above 0 and at most 1000")
        for before, after in pairwise(self.timesteps):
            _check(after < before, "timesteps", f"has {after} after {before}, must fall")


def locked_values(profile: Profile, *, two_experts: bool) -> dict[str, object]:
    """Return the values that a request may not contradict, by its field; None: it may not name the field."""
    values: dict[str, object] = {
        "steps": profile.steps,
        "flow_shift": profile.shift,
        "sampler": profile.sampler,
    }
    if "guidance" in profile.locked:
        values |= {"guidance": profile.guidance[0], "guidance_start": 0.0, "guidance_end": 1.0}
        if two_experts:
            values["guidance_low"] = profile.guidance[-1]
    return values


def _check(ok: bool, field: str, problem: str) -> None:
    if not ok:
        raise ProfileError(f"{field} {problem}")


def _one_of(field: str, value: object, allowed: tuple[str, ...] | list[str]) -> None:
    if value not in allowed:
        raise ProfileError(f"{field}: {value!r} is not one of {', '.join(allowed)}")


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise ProfileError(f"{key} is {value!r}, must be a number")
    return float(value)


def _numbers(key: str, value: object) -> tuple[float, ...]:
    if isinstance(value, int | float) and key == "guidance":
        return (_number(key, value),)
    if not isinstance(value, list | tuple):
        raise ProfileError(f"{key} is {value!r}, must be a list of numbers")
    return tuple(_number(key, one) for one in value)


def _whole(key: str, value: object) -> int:
    if type(value) is not int:
        raise ProfileError(f"{key} is {value!r}, must be a whole number")
    return value


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ProfileError(f"{key} is {value!r}, must be a text")
    return value


def _texts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ProfileError(f"{key} is {value!r}, must be a list of texts")
    return tuple(_text(key, one) for one in value)


_OPTIONAL = ("timesteps", "experts_at", "shift")
_READ = {
    "name": _text,
    "sampler": _text,
    "sigmas": _numbers,
    "timesteps": _numbers,
    "init_scale": _number,
    "precision": _text,
    "guidance": _numbers,
    "experts_at": _whole,
    "shift": _number,
    "locked": _texts,
    "note": _text,
    "fits": _texts,
}
