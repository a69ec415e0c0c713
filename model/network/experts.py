"""The feed-forward layer of a block: dense as in Wan, or token-routed experts with an optional shared one."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.compiler import is_compiling

from zoetrope.kernels import (
    Permutation,
    grouped_gemm,
    linear_gelu,
    route_grouped_top1,
    route_top_k,
    router_logits,
)
from zoetrope.model.network.adapted import Adapted, Shrunk, SlotRows, plus
from zoetrope.model.network.exchange import ALONE, Exchange
from zoetrope.model.network.initial import normal
from zoetrope.model.network.normed import Normed

# A CPU takes so many rows at a time, or so many hidden units if that is more: they stay in its cache.
PART_ROWS, PART_VALUES = 512, 1 << 18


class GeluProjection(nn.Module):
    """A linear layer and GELU (tanh)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear_gelu(x, self.proj.weight, self.proj.bias)


class DenseFeedForward(nn.Module):
    """Linear, GELU (tanh), linear; parameters are named as in diffusers' ``FeedForward`` (net.0.proj, net.2)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GeluProjection(dim, hidden), nn.Identity(), nn.Linear(hidden, dim))
        self.part = max(PART_ROWS, PART_VALUES // hidden)

    def forward(self, x: torch.Tensor | Normed, adapted: Adapted | None = None) -> torch.Tensor:
        """``[N, D]`` -> ``[N, D]``; ``adapted``: what adapters add to the two layers."""
        if adapted is not None and (rows := adapted.plan.tokens) is not None:
            return self._with_adapters(x, adapted, rows)
        if isinstance(x, torch.Tensor) and x.device.type == "cpu" and len(x) > self.part and not is_compiling():
            return torch.cat([self.net(rows) for rows in x.split(self.part)])
        out: torch.Tensor = self.net(x)
        return out

    def _with_adapters(self, x: torch.Tensor | Normed, adapted: Adapted, rows: SlotRows) -> torch.Tensor:
        first, _, second = self.net
        more = adapted.tokens("ffn.in", x.exact if isinstance(x, Normed) else x)
        if not isinstance(first, GeluProjection):  # in 8 bits: the second layer has the GELU
            before = plus(first(x), more, "ffn.net.0.proj")
            hidden = F.gelu(rows.take(before), approximate="tanh")
            out: torch.Tensor = second(before)
        else:
            assert isinstance(x, torch.Tensor)
            made = first(x) if more is None else with_added(first.proj, x, more, apart=x.device.type != "cpu")
            hidden = rows.take(made)
            out = second(made)
        return plus(out, adapted.slots.shrink_rows("ffn.out", hidden, rows), "ffn.net.2")


def with_added(layer: nn.Linear, x: torch.Tensor, more: Shrunk, *, apart: bool) -> torch.Tensor:
    """Apply a layer and GELU, with what adapters add in between to some of the rows.

    Args:
        apart: the other rows go the usual way, in which GELU is a part of the product; on a CPU it is none.
    """
    rows = more.rows.rows
    if not apart or not isinstance(rows, slice):
        return F.gelu(more.add(layer(x), "ffn.net.0.proj"), approximate="tanh")
    made = F.gelu(more.add_to_rows(layer(x[rows]), "ffn.net.0.proj"), approximate="tanh")
    beside = [linear_gelu(part, layer.weight, layer.bias) for part in (x[: rows.start], x[rows.stop :])]
    parts = [part for part in (beside[0], made, beside[1]) if len(part)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class MoEFeedForward(nn.Module):
    """Token-choice experts: a float32 router, a weighted sum in float32, plus a shared expert.

    There are two routers: the ``top_k`` best by a sigmoid gate (``groups`` None), or the best of each of ``groups``
    groups with weight 1, with which a dense layer cut into slices with replicas computes exactly what it did
    (`model.checkpoints.upcycle`). With ``bias``, each expert has one before its GELU, and the sum has one, added once.

    ``correction`` is the load-balance bias of DeepSeek-V3 (2412.19437): it affects the choice, not the weights, and is
    updated by counts, not by gradients (`rebalance`).
    """

    correction: torch.Tensor

    def __init__(
        self,
        dim: int,
        hidden: int,
        num_experts: int,
        top_k: int,
        shared_hidden: int,
        *,
        groups: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.num_experts = num_experts
        self.groups = groups
        self.gate = nn.Linear(dim, num_experts, bias=False)
        self.register_buffer("correction", torch.zeros(num_experts))
        self.w1 = nn.Parameter(normal(num_experts, dim, hidden, std=dim**-0.5))
        self.w2 = nn.Parameter(normal(num_experts, hidden, dim, std=hidden**-0.5))
        self.b1 = nn.Parameter(torch.zeros(num_experts, hidden)) if bias else None
        self.b2 = nn.Parameter(torch.zeros(dim)) if bias else None
        self.shared = DenseFeedForward(dim, shared_hidden) if shared_hidden else None
        self.last_counts: torch.Tensor | None = None

    def route(self, x: torch.Tensor) -> Permutation:
        """Route ``[N, D]``: the rows of all (token, choice) pairs sorted by expert."""
        logits = router_logits(x, self.gate.weight)
        if self.groups is None:
            rows = route_top_k(logits, self.correction.float(), self.top_k)
        else:
            rows = route_grouped_top1(logits, self.correction.float(), self.groups)
        self.last_counts = rows.counts
        return rows

    def apply_experts(self, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Apply this layer's experts to sorted rows: ``x`` [M, D], ``offsets`` [E + 1] int32 -> ``[M, D]``."""
        hidden = grouped_gemm(x, self.w1, offsets, self.b1, gelu=True)
        return grouped_gemm(hidden, self.w2, offsets)

    def forward(self, x: torch.Tensor, exchange: Exchange = ALONE) -> torch.Tensor:
        """``[N, D]`` -> ``[N, D]`` in the dtype of ``x``."""
        shared = None if self.shared is None else partial(self.shared, x)
        return exchange.experts(x, self.route, self.apply_experts, self.b2, shared)

    @torch.no_grad()
    def rebalance(self, rate: float) -> None:
        """Raise the bias of experts with fewer rows than the mean in the last routing, lower that of the others."""
        if self.last_counts is not None:
            load = self.last_counts.float()
            self.correction += rate * torch.sign(load.mean() - load)
