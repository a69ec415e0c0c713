"""Guidance: the branches that a step needs, and how their velocities are combined. Pure functions.

Beside classifier-free guidance (2207.12598) there are Bernini-R's modes, one for each of its tasks: text to video and
edits take classifier-free guidance, or adaptive projected guidance (2410.02416) of one step; edits with references
chain no stream, the clip, clip and references, then the text; references alone take adaptive projected guidance of two
steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from zoetrope.model.request.kinds import needs_negative

Mode = Literal["none", "cfg", "t2v", "v2v", "t2v_apg", "v2v_apg", "rv2v", "r2v"]
Streams = Literal["none", "videos", "all"]

# Bernini-R's constants; the text's weight is the request's guidance, 4.0 by default.
VIDEO_WEIGHT = 1.25
IMAGE_WEIGHT = 4.5
LOW_NOISE_FACTOR = 0.8  # multiplies all weights for the low-noise expert
APG_NORM = 50.0
APG_PARALLEL = 0.5

PROMPT_PREFIXES: dict[Mode, str] = {
    "t2v": "You are a helpful assistant specialized in text-to-video generation.",
    "t2v_apg": "You are a helpful assistant specialized in text-to-video generation.",
    "v2v": "You are a helpful assistant specialized in video editing.",
    "v2v_apg": "You are a helpful assistant specialized in video editing.",
    "r2v": "You are a helpful assistant specialized in subject-to-video generation.",
    "rv2v": "You are a helpful assistant specialized in video editing with reference.",
}


@dataclass(frozen=True)
class Branch:
    """One forward pass: the sources that it sees, and one of the two texts."""

    streams: Streams
    positive: bool


@dataclass(frozen=True)
class Scales:
    """The weight of each difference in a chain of branches."""

    text: float
    image: float = IMAGE_WEIGHT
    video: float = VIDEO_WEIGHT


_POSITIVE, _NEGATIVE = Branch("all", True), Branch("all", False)
_BRANCHES: dict[Mode, tuple[Branch, ...]] = {
    "none": (_POSITIVE,),
    "cfg": (_POSITIVE, _NEGATIVE),
    "t2v": (_POSITIVE, _NEGATIVE),
    "v2v": (_POSITIVE, _NEGATIVE),
    "t2v_apg": (_NEGATIVE, _POSITIVE),
    "v2v_apg": (_NEGATIVE, _POSITIVE),
    "rv2v": (Branch("none", False), Branch("videos", False), _NEGATIVE, _POSITIVE),
    "r2v": (Branch("none", False), _NEGATIVE, _POSITIVE),
}


def bernini_mode(kind: str, references: int) -> Mode:
    """Return Bernini-R's mode for a task of that kind with that many references."""
    if kind == "edit_video":
        return "rv2v" if references else "v2v"
    return "r2v" if kind in ("reference_to_video", "grid_to_video") else "t2v"


def with_prefix(mode: Mode, prompt: str) -> str:
    """Prepend the prefix that Bernini-R's text encoder expects; other modes leave the prompt unchanged."""
    return PROMPT_PREFIXES.get(mode, "") + prompt


def effective(mode: Mode, guidance: float) -> Mode:
    """Return the mode that is run: two branches become one if guidance is not above 1.

    As in diffusers, the high-noise scale decides, whatever the low-noise expert's is.
    """
    if len(_BRANCHES[mode]) == 2 and not needs_negative(guidance):
        return "none"
    return mode


def branches(mode: Mode) -> tuple[Branch, ...]:
    """Return the branches in the order in which `combine` takes their velocities."""
    return _BRANCHES[mode]


def uses_negative(mode: Mode, guidance: float) -> bool:
    """Tell whether a segment needs the negative text."""
    return any(not branch.positive for branch in branches(effective(mode, guidance)))


def scales(mode: Mode, guidance: float, guidance_low: float | None, low_noise: bool) -> Scales:
    """Return the weights of a step.

    Args:
        guidance, guidance_low: of the request, for the high-noise and the low-noise expert; None: as the other, or for
            Bernini-R 0.8 times the other. low_noise: the low-noise expert of two takes this step.
    """
    if not low_noise:
        return Scales(guidance)
    factor = 1.0 if mode in ("none", "cfg") else LOW_NOISE_FACTOR
    text = guidance * factor if guidance_low is None else guidance_low
    return Scales(text, IMAGE_WEIGHT * factor, VIDEO_WEIGHT * factor)


def combine(
    mode: Mode, velocities: list[torch.Tensor], latents: torch.Tensor, sigma: float, weights: Scales
) -> torch.Tensor:
    """Combine the velocities of all branches into one.

    Args:
        velocities: ``[C, T, H, W]`` each, in the order of `branches`. latents: the noisy latents that they belong to.
        sigma: the share of noise in ``latents``, above 0 (used by adaptive projected guidance only).
    """
    if mode == "none":
        (only,) = velocities
        return only
    if mode == "rv2v":
        bare, video, everything, text = velocities
        return (
            bare
            + weights.video * (video - bare)
            + weights.image * (everything - video)
            + weights.text * (text - everything)
        )
    if mode in ("t2v_apg", "v2v_apg", "r2v"):
        noisy = latents.double()
        clean = [noisy - sigma * velocity.double() for velocity in velocities]
        guided = clean[0]
        for before, after, weight in zip(
            clean, clean[1:], (weights.image, weights.text)[1 - len(clean) :], strict=False
        ):
            guided = guided + weight * projected(after - before, after)
        return ((noisy - guided) / sigma).to(velocities[0].dtype)
    positive, negative = velocities
    return negative + weights.text * (positive - negative)


def projected(difference: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Apply one step of adaptive projected guidance without momentum: ``[C, T, H, W]`` float64 -> the same.

    For each latent frame the difference is clipped to a norm of 50, and its part parallel to ``base`` halved.
    """
    axes = (0, 2, 3)
    norm = difference.square().sum(axes, keepdim=True).sqrt()
    difference = difference * (APG_NORM / norm.clamp_min(1e-12)).clamp_max(1.0)
    unit = base / base.square().sum(axes, keepdim=True).sqrt().clamp_min(1e-12)
    parallel = (difference * unit).sum(axes, keepdim=True) * unit
    return difference - parallel + APG_PARALLEL * parallel
