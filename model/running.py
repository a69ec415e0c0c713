"""Sequences through a network: in one process here, over the ranks of a gang in `cluster.parallel`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from model.sequences import Sequence, unpack_targets
from model.transformer import WanTransformer


@dataclass(frozen=True)
class Run:
    """What a network made of some sequences.

    Attributes:
        velocities: of each sequence's target, ``[C, T, H, W]`` float32, in the order of the sequences.
        tokens: of all sequences together.
    """

    velocities: list[torch.Tensor]
    tokens: int


Runner = Callable[[WanTransformer, list[Sequence]], Run]


def run_alone(network: WanTransformer, sequences: list[Sequence]) -> Run:
    """All sequences in one packed batch."""
    batch = network.pack(sequences)
    output = network(batch).float()
    return Run(unpack_targets(output, batch, network.config.patch_size), batch.cu_tokens.total)
