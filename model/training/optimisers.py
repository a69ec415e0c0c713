"""Assign parameters to optimisers, and schedule the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from zoetrope.model.training.muon import Muon

BETAS = (0.9, 0.95)
FLOOR = 0.02  # of the full rate, at the end of a run
SMALL = ("scale_shift_table", "gate.weight", ".b1")  # with two axes or more, but not weight matrices


@dataclass(frozen=True)
class Recipe:
    """The trainer's settings.

    Attributes:
        warmup: steps over which the rate rises. decay: share of the steps over which it falls to 2 % of the full
            rate.
        ema: weight of the past in the moving average of the weights; 0: no moving average.
        balance_rate: how much the experts' load-balance bias moves per step; 0: not at all.
        clip: the largest norm of the gradient.
    """

    steps: int
    warmup: int
    decay: float
    ema: float
    balance_rate: float
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Return the share of the full learning rates in a step; steps are numbered from 0.

        The rate stays at its full value for long, so that a longer run can resume the saved state of a shorter one.
        """
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / max(1, self.warmup), max(FLOOR, left))


def split_parameters(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the parameters: weight matrices of the blocks of ``net.transformer``, and all others."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        inside = name.startswith("transformer.blocks.") and parameter.ndim >= 2
        (matrices if inside and not name.endswith(SMALL) else rest).append(parameter)
    return matrices, rest


def build_optimisers(
    net: nn.Module, kind: Literal["muon", "adamw"], lr: float, muon_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Build Muon for the matrices and AdamW for the rest, or AdamW for all; only matrices have weight decay."""
    matrices, rest = split_parameters(net)
    if kind == "muon":
        return [
            Muon(matrices, muon_lr, weight_decay=weight_decay),
            torch.optim.AdamW(rest, lr, betas=BETAS, weight_decay=weight_decay),
        ]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr, betas=BETAS)]
