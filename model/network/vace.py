"""VACE's hints: a second, smaller stack of blocks that reads the control video and adds to some main blocks."""

from __future__ import annotations

import torch
from torch import nn

from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.blocks import Block, Hidden
from zoetrope.model.network.remembered import KeysValues
from zoetrope.model.network.sequences import PackedBatch


class VaceBlock(Block):
    """A hint block (2503.07598); names are those of diffusers' WanVACETransformerBlock."""

    def __init__(self, config: TransformerConfig, first: bool) -> None:
        super().__init__(config, layer=None)
        self.proj_in = nn.Linear(config.dim, config.dim) if first else None
        self.proj_out = nn.Linear(config.dim, config.dim)

    def hint(
        self,
        control: torch.Tensor,
        x: torch.Tensor,
        text: torch.Tensor | KeysValues,
        image: torch.Tensor | None,
        modulation: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        batch: PackedBatch,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(hint, control)``, from ``control`` [N, D] of the previous hint block and the network's input ``x``
        [N, D]."""
        if self.proj_in is not None:
            control = self.proj_in(control) + x
        control = self(Hidden(control), text, image, modulation, rope, batch).settle(batch.noise_row)
        return self.proj_out(control), control
