"""What `--quantize` can be, and which networks have such a form. Needs no torch; `model.network.quantized` makes it."""

from __future__ import annotations

from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.request.quantize import Quantize

FIRST, LAST = 2, 3  # blocks that stay as they are
FP8_BYTES, SCALE_BYTES = 1, 4  # of a value in 8 bits, and of the scale of a row
FEWEST = 8  # blocks of a network to which that applies; with fewer, one at each end stays


def middle_blocks(layers: int) -> range:
    """Return the numbers of the blocks that are quantised, of a network of so many."""
    return range(FIRST, layers - LAST) if layers >= FEWEST else range(1, layers - 1)


def described(config: TransformerConfig, quantize: Quantize) -> str:
    """Say which blocks are quantised, counted from 1."""
    middle = middle_blocks(config.num_layers)
    return (
        f"Blocks {middle[0] + 1} to {middle[-1] + 1} of {config.num_layers} are in {quantize}, the others as they are"
    )


def why_exact(config: TransformerConfig) -> str | None:
    """Say why a network has no 8-bit form; None if it has one."""
    if config.network != TransformerConfig.network:
        return f"its network, {config.network.rpartition(':')[2]}, has no 8-bit form"
    if not middle_blocks(config.num_layers):
        return f"num_layers is {config.num_layers}: the outer blocks stay as they are, so it must be at least 3"
    return None
