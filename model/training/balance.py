"""Update a network after each optimiser step: load balance of the experts, moving average."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import distributed, nn

from zoetrope.model.network.experts import MoEFeedForward

N = TypeVar("N", bound=nn.Module)


def twin(net: N) -> N:
    """Return what a moving average starts as. Call it before an optimiser adds hooks to the network."""
    return copy.deepcopy(net).requires_grad_(False)


def balance(net: nn.Module, rate: float) -> None:
    """Move the load-balance bias of every expert layer by the rows of the last step on all ranks."""
    for layer in net.modules():
        if isinstance(layer, MoEFeedForward) and layer.last_counts is not None:
            if distributed.is_initialized():
                counts = layer.last_counts.clone()
                distributed.all_reduce(counts)
                layer.last_counts = counts
            layer.rebalance(rate)


@torch.no_grad()
def average(ema: nn.Module, net: nn.Module, decay: float, step: int) -> None:
    """Move the moving average towards the network, at first faster than ``decay``; buffers are copied."""
    weight = 1 - min(decay, (step + 1) / (step + 10))
    for mean, new in zip(ema.parameters(), net.parameters(), strict=True):
        mean.lerp_(new, weight)
    for kept, counted in zip(ema.buffers(), net.buffers(), strict=True):
        kept.copy_(counted)
