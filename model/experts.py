"""The feed-forward layer of a block: dense as in Wan, or token-routed experts with a shared one beside them."""

from __future__ import annotations

import torch
from torch import nn

from kernels import grouped_gemm, permute_by_expert, route_top_k


class GeluProjection(nn.Module):
    """A linear layer and GELU (tanh)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.proj(x), approximate="tanh")


class DenseFeedForward(nn.Module):
    """Linear, GELU (tanh), linear; parameters are named as in diffusers' ``FeedForward`` (net.0.proj, net.2)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GeluProjection(dim, hidden), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, D]`` -> ``[N, D]``."""
        out: torch.Tensor = self.net(x)
        return out


class MoEFeedForward(nn.Module):
    """Token choice of ``top_k`` experts by a float32 sigmoid router, a weighted sum in float32, plus a shared expert.

    ``correction`` is the load-balance bias of DeepSeek-V3 (2412.19437): it moves the choice, not the weights, and is
    trained by counting, not by gradients (`rebalance`).
    """

    correction: torch.Tensor

    def __init__(self, dim: int, hidden: int, num_experts: int, top_k: int, shared_hidden: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.num_experts = num_experts
        self.gate = nn.Linear(dim, num_experts, bias=False)
        self.register_buffer("correction", torch.zeros(num_experts))
        self.w1 = nn.Parameter(torch.randn(num_experts, dim, hidden) * dim**-0.5)
        self.w2 = nn.Parameter(torch.randn(num_experts, hidden, dim) * hidden**-0.5)
        self.shared = DenseFeedForward(dim, shared_hidden) if shared_hidden else None
        self.last_counts: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, D]`` -> ``[N, D]`` in the dtype of ``x``."""
        logits = nn.functional.linear(x.float(), self.gate.weight.float())
        experts, gates = route_top_k(logits, self.correction.float(), self.top_k)
        rows = permute_by_expert(experts, gates, self.num_experts)
        self.last_counts = rows.counts
        hidden = grouped_gemm(x.index_select(0, rows.token), self.w1, rows.counts, gelu=True)
        y = grouped_gemm(hidden, self.w2, rows.counts)
        out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        out = out.index_add(0, rows.token, y.float() * rows.gate[:, None])
        if self.shared is not None:
            out = out + self.shared(x).float()
        return out.to(x.dtype)

    @torch.no_grad()
    def rebalance(self, rate: float) -> None:
        """Raise the bias of experts that got fewer rows than the mean in the last forward, lower the others."""
        if self.last_counts is not None:
            load = self.last_counts.float()
            self.correction += rate * torch.sign(load.mean() - load)
