"""Chooses into how many chunks a layer's tokens are split on their way to other ranks' experts, to hide messages.

Of ``c`` chunks the first must arrive before any work starts, and the results of the last leave after all work is done,
so about 1 / ``c`` of the messages stays exposed. Each further chunk has a price: every expert pads its rows to whole
tiles once more, and there are more launches and messages. So only long batches are split.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from zoetrope.cluster.planning.expert_traffic import row_bytes
from zoetrope.cluster.planning.rates import Rates
from zoetrope.model.families.config import TransformerConfig

LENT = 0.12  # assumed: of a message's time, what the work beside it loses by the multiprocessors and memory it uses
TILE_ROWS = 128  # of the grouped GEMM; an expert leaves half of its last tile empty, on average
CHUNK_LAUNCHES = 20  # with the kernels of `kernels.gpu`; plain torch takes some hundred
LAUNCH_SECONDS = 4e-6  # assumed: of a small kernel
CHUNK_MESSAGES = 3  # pairs, rows and results
MOST_CHUNKS = 8


@dataclass(frozen=True)
class Chunking:
    """``thresholds``: tokens of a rank from which there are 2, 4 and 8 chunks; empty: always one."""

    thresholds: tuple[int, ...] = ()

    def of(self, tokens: int) -> int:
        """Return the number of chunks."""
        return 1 << bisect_right(self.thresholds, tokens)


WHOLE = Chunking()


def chunking(config: TransformerConfig, rates: Rates, ranks: int) -> Chunking:
    """Double the chunks wherever that hides more than it costs.

    On a CPU messages use the cores that the experts need: nothing is split there.
    """
    if config.moe is None or ranks == 1 or not rates.hardware.is_gpu:
        return WHOLE
    link = rates.hardware.inside
    sent = row_bytes(config, ranks, rates.hardware.value_bytes) * (ranks - 1) / ranks
    gain = (1 - LENT) * sent / (link.bandwidth * link.fraction)  # seconds of a token in a layer, if all were hidden
    price, chunks, thresholds = chunk_seconds(config, rates, ranks), 1, []
    while chunks < MOST_CHUNKS:
        # From c to 2 c chunks hides 1 / 2c more, and costs c prices.
        thresholds.append(int(2 * chunks**2 * price / gain) + 1)
        chunks *= 2
    return Chunking(tuple(thresholds))


def chunk_seconds(config: TransformerConfig, rates: Rates, ranks: int) -> float:
    """Return what another chunk costs in a layer of experts."""
    assert config.moe is not None
    moe, link = config.moe, rates.hardware.inside
    padding = moe.num_experts // ranks * TILE_ROWS / 2
    row = 4.0 * config.dim * moe.expert_dim * rates.correction / rates.experts
    return padding * row + CHUNK_LAUNCHES * LAUNCH_SECONDS + CHUNK_MESSAGES * link.latency
