"""VACE's hints: a second, thinner stack of blocks that reads the control video and adds to some of the network's."""

from __future__ import annotations

import torch
from torch import nn

from model.blocks import Block, Hidden
from model.config import TransformerConfig
from model.sequences import PackedBatch


class VaceBlock(Block):
    """A block beside the network's own (2503.07598); names are those of diffusers' WanVACETransformerBlock."""

    def __init__(self, config: TransformerConfig, first: bool) -> None:
        super().__init__(config, layer=None)
        self.proj_in = nn.Linear(config.dim, config.dim) if first else None
        self.proj_out = nn.Linear(config.dim, config.dim)

    def hint(
        self,
        control: torch.Tensor,
        x: torch.Tensor,
        text: torch.Tensor,
        image: torch.Tensor | None,
        modulation: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        batch: PackedBatch,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``control`` [N, D] from the block before, ``x`` [N, D] the network's input -> ``(hint, control)``."""
        if self.proj_in is not None:
            control = self.proj_in(control) + x
        control = self(Hidden(control), text, image, modulation, rope, batch).settle(batch.noise_row)
        return self.proj_out(control), control
