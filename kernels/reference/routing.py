"""Token choice of experts and the sorted order of its rows, in plain torch; `kernels.gpu.routing` does the same."""

from __future__ import annotations

import torch

from zoetrope.kernels.types.permutation import Permutation


def route_top_k(logits: torch.Tensor, correction: torch.Tensor, k: int) -> Permutation:
    """Choose by a sigmoid gate; a load-balance correction steers the choice, not the weight (DeepSeek-V3, 2412.19437).

    Args:
        logits: ``[N, E]`` float32. correction: ``[E]`` float32. k: experts per token, 1 to E.

    Returns:
        The rows of all choices sorted by expert. ``position[n, j]`` has the choices of a token in descending order of
        score; of equal scores the lower expert number comes first, and NaN counts as minus infinity. The gates of a
        token add up to 1; gradients reach ``logits`` through them.
    """
    scores = logits.sigmoid()
    experts = _sortable(scores + correction).sort(dim=-1, descending=True, stable=True).indices[:, :k]
    gates = scores.gather(1, experts)
    return permute_by_expert(experts, gates / gates.sum(dim=-1, keepdim=True).clamp_min(1e-9), logits.shape[1])


def route_grouped_top1(logits: torch.Tensor, correction: torch.Tensor, groups: int) -> Permutation:
    """Choose one expert of every group with weight 1: the softmax over the group's single chosen expert.

    Experts ``g * R .. (g + 1) * R - 1`` form group ``g``. The gate is exactly 1 for any router, yet its gradient is
    that of the log-probability of the choice within the group, so that a router can learn.

    Args:
        logits: ``[N, E]`` float32. correction: ``[E]`` float32, steers the choice. groups: a divisor of E.

    Returns:
        The rows of all choices sorted by expert; ``position[n, g]`` is the choice of group ``g``. Of equal scores the
        lower expert number wins, and NaN counts as minus infinity.
    """
    grouped = logits.unflatten(1, (groups, -1))
    key = _sortable(grouped + correction.view(groups, -1))
    size = grouped.shape[2]
    member = torch.arange(size, device=logits.device)
    # The lowest index of the largest: argmax does not promise which of several it returns.
    replica = torch.where(key == key.amax(dim=-1, keepdim=True), member, size).amin(dim=-1)
    first = torch.arange(groups, device=logits.device) * size
    if torch.is_grad_enabled() and logits.requires_grad:
        chosen = grouped.log_softmax(dim=-1).gather(2, replica[..., None])[..., 0]
        gates = (chosen - chosen.detach()).exp()
    else:
        gates = torch.ones(replica.shape, dtype=torch.float32, device=logits.device)
    return permute_by_expert(replica + first, gates, logits.shape[1])


def permute_by_expert(experts: torch.Tensor, gates: torch.Tensor, num_experts: int) -> Permutation:
    """Sort stably the ``N * k`` (token, choice) pairs by expert.

    Args:
        experts: ``[N, k]`` int64, those of a token all different. gates: ``[N, k]`` float32.

    Returns:
        The permutation; ``gate`` is differentiable in ``gates``.
    """
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    counts = torch.zeros(num_experts, dtype=torch.int32, device=flat.device)
    counts = counts.index_add(0, flat, torch.ones_like(flat, dtype=torch.int32))
    offsets = torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    place = torch.arange(flat.numel(), dtype=torch.int32, device=flat.device)
    return Permutation(
        token=(order // experts.shape[1]).int(),
        gate=gates.flatten()[order],
        counts=counts,
        offsets=offsets,
        position=torch.empty_like(place).scatter(0, order, place).view(experts.shape),
    )


def _sortable(scores: torch.Tensor) -> torch.Tensor:
    return torch.where(scores.isnan(), float("-inf"), scores)
