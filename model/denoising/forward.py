"""Run sequences through a network: in one process here, over the ranks of a gang in `cluster.parallel`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence, count_tokens, unpack_targets


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


@dataclass(frozen=True)
class InParts:
    """A runner that passes sequences on in several forward passes if they have too many tokens for one.

    ``most_tokens``: of a pass; a sequence that has more gets one of its own. Every rank of a gang has the same.
    """

    runner: Runner
    most_tokens: int

    def __call__(self, network: Network, sequences: list[Sequence]) -> ForwardRun:
        parts: list[list[Sequence]] = []
        taken = 0
        for sequence in sequences:
            tokens = count_tokens(sequence, network.config.patch_size)
            if not parts or taken + tokens > self.most_tokens:
                parts.append([])
                taken = 0
            parts[-1].append(sequence)
            taken += tokens
        runs = [self.runner(network, part) for part in parts] or [self.runner(network, sequences)]
        return ForwardRun([v for run in runs for v in run.velocities], sum(run.tokens for run in runs))
