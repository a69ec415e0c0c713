"""Which experts a token goes to, and the order that puts the rows of one expert side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.compiler import opaque


@dataclass(frozen=True)
class Permutation:
    """Rows sorted by expert: ``token[r]`` is the source token of sorted row ``r``, ``gate[r]`` its weight."""

    token: torch.Tensor  # [N * k] int64
    gate: torch.Tensor  # [N * k] float32
    counts: torch.Tensor  # [E] int64


def route_top_k(logits: torch.Tensor, correction: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sigmoid gate with a load-balance correction that steers the choice but not the weight (DeepSeek-V3, 2412.19437).

    Args:
        logits: ``[N, E]`` float32. correction: ``[E]`` float32. k: experts per token.

    Returns:
        ``(experts [N, k] int64, gates [N, k] float32)``; the gates of a token add up to 1.
    """
    scores = logits.sigmoid()
    experts = (scores + correction).topk(k, dim=-1).indices
    gates = scores.gather(1, experts)
    return experts, gates / gates.sum(dim=-1, keepdim=True).clamp_min(1e-9)


def route_grouped_top1(
    logits: torch.Tensor, correction: torch.Tensor, groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One expert of every group, with weight 1: the softmax over the group's chosen ones, of which there is one.

    Experts ``g * R .. (g + 1) * R - 1`` form group ``g``. The gate is exactly 1 for any router, yet its gradient is
    that of the log-probability of the choice within the group, so that a router can learn.

    Args:
        logits: ``[N, E]`` float32. correction: ``[E]`` float32, steers the choice. groups: a divisor of E.

    Returns:
        ``(experts [N, groups] int64, gates [N, groups] float32)``.
    """
    grouped = logits.unflatten(1, (groups, -1))
    replica = (grouped + correction.view(groups, -1)).argmax(dim=-1)
    chosen = grouped.log_softmax(dim=-1).gather(2, replica[..., None])[..., 0]
    first = torch.arange(groups, device=logits.device) * grouped.shape[2]
    return replica + first, (chosen - chosen.detach()).exp()


@opaque
def permute_by_expert(experts: torch.Tensor, gates: torch.Tensor, num_experts: int) -> Permutation:
    """Stable sort of the ``N * k`` (token, choice) pairs by expert; deterministic."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    return Permutation(
        token=order // experts.shape[1],
        gate=gates.flatten()[order],
        counts=torch.bincount(flat, minlength=num_experts),
    )
