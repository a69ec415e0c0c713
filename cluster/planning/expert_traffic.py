"""Where the experts of a token are, on average."""

from __future__ import annotations

import math

from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.families.quantization import SCALE_BYTES, middle_blocks
from zoetrope.model.request.quantize import Quantize

PAIR_BYTES = 12  # of a token and an expert: `kernels.ops.dispatch.PAIR_BYTES`, without torch


def balanced(config: TransformerConfig, sequence_ranks: int) -> bool:
    """Return whether every rank gets equally many rows whatever the router chooses: true if a token has one expert in
    each group and ranks hold whole groups."""
    moe = config.moe
    if moe is None or sequence_ranks == 1:
        return True
    return moe.router == "grouped_top1" and moe.groups % sequence_ranks == 0


def row_bytes(config: TransformerConfig, ranks: int, size: int, *, quantised: bool = False) -> float:
    """Return the bytes that a token sends to experts and gets back in a routed layer, at ``size`` bytes a value,
    including rows that stay on its rank. A ``quantised`` layer is sent 8 bits a value, and a scale of each row."""
    there = config.dim + SCALE_BYTES if quantised else config.dim * size
    return ranks_of_token(config, ranks) * float(there + config.dim * size)


def quantised_layers(config: TransformerConfig, quantize: Quantize) -> int:
    """Count the routed layers in 8 bits."""
    if config.moe is None or quantize == "none":
        return 0
    return len(set(config.moe.layers) & set(middle_blocks(config.num_layers)))


def ranks_of_token(config: TransformerConfig, ranks: int) -> float:
    """Return on how many ranks a token's experts are, on average, if all experts are equally likely: the number of its
    rows in a routed layer. 0 if there are no experts."""
    moe = config.moe
    if moe is None:
        return 0.0
    experts, own = moe.num_experts, moe.num_experts // ranks
    if moe.router != "grouped_top1":
        return ranks * (1 - math.comb(experts - own, moe.top_k) / math.comb(experts, moe.top_k))
    size, found = experts // moe.groups, 0.0
    for rank in range(ranks):
        first, stop = rank * own, (rank + 1) * own
        groups = range(first // size, -(-stop // size))
        found += 1 - math.prod(1 - (min(stop, (g + 1) * size) - max(first, g * size)) / size for g in groups)
    return found


def check_divides(config: TransformerConfig, ranks: int) -> None:
    """Check that ``ranks`` can share a network.

    Raises:
        ValueError: they do not divide its heads or its experts.
    """
    if ranks < 1 or config.num_attention_heads % ranks:
        raise ValueError(f"num_attention_heads is {config.num_attention_heads}, which {ranks} ranks do not divide")
    if config.moe is not None and config.moe.num_experts % ranks:
        raise ValueError(f"num_experts is {config.moe.num_experts}, which {ranks} ranks do not divide")
