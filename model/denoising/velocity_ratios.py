"""Measure how much the velocity of a clip changes from step to step, for `model.caching`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from zoetrope.model.denoising.denoise import Denoiser, Segment

OnStep = Callable[[int, int], None]


def velocity_ratios(denoiser: Denoiser, segments: Sequence[Segment], on_step: OnStep) -> list[tuple[float, ...]]:
    """Denoise segments to the end, in one batch, and return the ratios of each, one a step and 1 for the first.

    Args:
        segments: before their first step, of equally many steps, all of them computed.
        on_step: is called with the number of steps taken and of all.

    Raises:
        ValueError: a segment skips steps, or they have different numbers of them.
    """
    lengths = {segment.spec.steps for segment in segments}
    if len(lengths) != 1 or any(segment.spec.step_mask for segment in segments):
        raise ValueError("ratios are measured on segments of equally many steps, all of them computed")
    steps = lengths.pop()
    found: list[list[float]] = [[] for _ in segments]
    before: list[torch.Tensor | None] = [None] * len(segments)
    for step in range(steps):
        denoiser.step(list(segments))
        for i, segment in enumerate(segments):
            velocity, last = segment.sampler.velocity, before[i]
            assert velocity is not None, "a step was just taken"
            found[i].append(1.0 if last is None else norm_ratio(velocity, last, segment.conditions.known_frames))
            before[i] = velocity
        on_step(step + 1, steps)
    return [tuple(ratios) for ratios in found]


def norm_ratio(after: torch.Tensor, before: torch.Tensor, known: torch.Tensor | None = None) -> float:
    """Return the mean over cells of the norm over channels of ``after`` over that of ``before``.

    Args:
        after, before: ``[C, T, H, W]`` float32. known: [T], true for given frames, whose velocity has no effect and
            does not count, unless all are given.
    """
    if known is not None and not bool(known.all()):
        free = (~known).to(after.device)
        after, before = after[:, free], before[:, free]
    norms = after.norm(dim=0), before.norm(dim=0)
    return float((norms[0] / norms[1].clamp_min(1e-12)).mean())
