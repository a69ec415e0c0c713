"""What it costs to stream a network's layers from the host, and from how many tokens on that is free.

While a layer computes, the next is copied, so a pass takes about the longer of both for each layer. Streaming hides
behind ``t(S) >= bytes / bandwidth`` with ``t(S) = 2 S (6 D^2 + 2 D F) / P + 4 S^2 D / A``: S packed tokens of one
sequence, D the width, F the hidden width, P and A the rates of products and attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoetrope.cluster.planning.rates import Rates
from zoetrope.model.families.config import TransformerConfig

PASSES = 3  # simulated until a pass takes as long as the one before


def break_even_tokens(config: TransformerConfig, copied: float, bandwidth: float, rates: Rates) -> float:
    """Return the tokens of a forward pass from which copying a layer takes no longer than computing one.

    Args:
        config: of a network with dense layers; of one with experts, those that a token uses count.
        copied: bytes of a layer. bandwidth: bytes a second of a copy.
    """
    hidden: float = config.ffn_dim
    if config.moe is not None:
        hidden = config.moe.top_k * config.moe.expert_dim + config.moe.shared_dim
    square = 4.0 * config.dim / (rates.attention / rates.correction)
    linear = 2.0 * (6 * config.dim**2 + 2 * config.dim * hidden) / (rates.products / rates.correction)
    return (math.sqrt(linear**2 + 4 * square * copied / bandwidth) - linear) / (2 * square)


def pass_seconds(compute: Sequence[float], copy: Sequence[float]) -> float:
    """Return the seconds of one pass of many in a row.

    Args:
        compute, copy: of each layer in order; a layer that stays on the device has no copy (0).
    """
    now = copied = 0.0  # when the computation, and the last copy, end
    free = [0.0, 0.0]  # when the computation is done with a slab
    took, turn = 0.0, 0
    for _ in range(PASSES):
        started = now
        for seconds, transfer in zip(compute, copy, strict=True):
            if transfer:
                copied = max(copied, free[turn]) + transfer
                now = free[turn] = max(now, copied) + seconds
                turn = 1 - turn
            else:
                now += seconds
        took = now - started
    return took
