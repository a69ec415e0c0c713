"""Choose the experts of each token, and sort the rows by expert."""

from __future__ import annotations

import torch

from zoetrope.kernels.reference import routing as reference
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.select.no_compile import opaque
from zoetrope.kernels.types.permutation import Permutation


@opaque
def route_top_k(logits: torch.Tensor, correction: torch.Tensor, k: int, *, backend: str | None = None) -> Permutation:
    """Choose by a sigmoid gate; a load-balance correction steers the choice, not the weight (DeepSeek-V3, 2412.19437).

    Args:
        logits: ``[N, E]`` float32. correction: ``[E]`` float32. k: experts per token.
        backend: the implementation to take (`kernels.select.backends`); by itself the first one that is trusted.

    Returns:
        The ``N * k`` rows sorted by expert; the gates of a token add up to 1. Of experts that score alike, the one of
        the lower number wins.

    Raises:
        ValueError: ``k`` is not in 1..E, or shapes do not fit each other.
    """
    _check(logits, correction)
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k is {k}: it must be 1 to {logits.shape[1]}, the number of experts")
    if choose("routing", KernelCall.of(logits, correction), backend) == "triton":
        from zoetrope.kernels.gpu.routing import route_top_k as triton

        return triton(logits, correction, k)
    return reference.route_top_k(logits, correction, k)


@opaque
def route_grouped_top1(
    logits: torch.Tensor, correction: torch.Tensor, groups: int, *, backend: str | None = None
) -> Permutation:
    """Choose one expert of every group with weight 1: the softmax over the group's single chosen expert.

    Experts ``g * R .. (g + 1) * R - 1`` form group ``g``. The gate is exactly 1 for any router, yet its gradient is
    that of the log-probability of the choice within the group, so that a router can learn.

    Args:
        logits: ``[N, E]`` float32. correction: ``[E]`` float32, steers the choice. groups: a divisor of E.
        backend: the implementation to take (`kernels.select.backends`); by itself the first one that is trusted.

    Returns:
        The ``N * groups`` rows sorted by expert. Of experts that score alike, the one of the lower number wins.

    Raises:
        ValueError: ``groups`` does not divide E, or shapes do not fit each other.
    """
    _check(logits, correction)
    if groups < 1 or logits.shape[1] % groups:
        raise ValueError(f"groups is {groups}: it must divide {logits.shape[1]}, the number of experts")
    if choose("routing", KernelCall.of(logits, correction), backend) == "triton":
        from zoetrope.kernels.gpu.routing import route_grouped_top1 as triton

        return triton(logits, correction, groups)
    return reference.route_grouped_top1(logits, correction, groups)


def _check(logits: torch.Tensor, correction: torch.Tensor) -> None:
    if logits.ndim != 2 or correction.shape != (logits.shape[1],):
        raise ValueError(f"logits is {tuple(logits.shape)}, correction {tuple(correction.shape)}: [N, E] and [E]")
    if logits.dtype != torch.float32 or correction.dtype != torch.float32:
        raise ValueError(f"logits is {logits.dtype}, correction {correction.dtype}: both must be float32")
