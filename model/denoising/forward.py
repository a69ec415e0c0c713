"""Run sequences through a network: in one process here, over the ranks of a gang in `cluster.parallel`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence, unpack_targets


@dataclass(frozen=True)
class ForwardRun:
    """The result of a network for some sequences.

    Attributes:
        velocities: of each sequence's target, ``[C, T, H, W]`` float32, in the order of the sequences.
        tokens: their total number.
    """

    velocities: list[torch.Tensor]
    tokens: int


Runner = Callable[[Network, list[Sequence]], ForwardRun]


def run_alone(network: Network, sequences: list[Sequence]) -> ForwardRun:
    """Run all sequences in one packed batch."""
    batch = network.pack(sequences)
    output = network(batch).float()
    return ForwardRun(unpack_targets(output, batch, network.config.patch_size), batch.cu_tokens.total)
