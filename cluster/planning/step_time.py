"""Predicts how long a step takes and what it sends, from shapes and rates alone. Pure and cheap: a watchdog may ask
every step.

A step is a roofline: FLOPs (`model.network.costs`) over the rates of products, experts and attention, bytes of the
passes between them over the memory's bandwidth, bytes on the wire over the links'. Messages overlap as in
`cluster.parallel.exchange` (on GPUs): queries and keys with the projections after them, a chunk of tokens with the
experts' work on another; everything else is sequential. Not included: launches, host time, samplers and packing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from zoetrope.cluster.planning.expert_traffic import PAIR_BYTES, balanced, quantised_layers, ranks_of_token, row_bytes
from zoetrope.cluster.planning.hardware import Link
from zoetrope.cluster.planning.overlap import CHUNK_MESSAGES, LENT, chunk_seconds, chunking
from zoetrope.cluster.planning.rates import Rates
from zoetrope.cluster.planning.slicing import assign
from zoetrope.model.families.config import TEXT_TOKENS, TransformerConfig
from zoetrope.model.request.quantize import Quantize

# Reads and writes of a token's whole row in a block, beside the products: three residual norms of two each way, q and k
# of the self-attention, q of the cross-attention.
BLOCK_PASSES = 3 * 4 + 2 * 2 + 2
EXCHANGE_PASSES = 4 * 2  # q, k, v copied into the order of a message, the result out of it
EXPERT_PASSES = 2  # of an expert's row: copied into the order of the experts, summed after them
DISPATCH_PASSES = 4  # of a row sent in a gang: copied to be sent, made of its experts' rows, summed on return

HEAD_MESSAGES = 4  # of a block: queries, keys, values and the result

IMBALANCE = 1.15  # assumed: the busiest rank's rows over the mean, unless the routing makes them equal


@dataclass(frozen=True)
class Traffic:
    """Bytes that a rank sends in a step, and as many that it receives."""

    what: str
    link: str
    bytes: float


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, averaged over the ranks; ``idle`` is waiting for the busiest one, so the parts add up.

    Attributes:
        all_to_all: messages that nothing hides, and the cost of hiding the others. hidden: messages in flight while
            ranks compute; not part of the sum.
    """

    products: float = 0.0
    experts: float = 0.0
    attention: float = 0.0
    passes: float = 0.0
    all_to_all: float = 0.0
    gather: float = 0.0
    idle: float = 0.0
    hidden: float = 0.0
    traffic: tuple[Traffic, ...] = ()

    @property
    def compute(self) -> float:
        return self.products + self.experts + self.attention + self.passes

    @property
    def total(self) -> float:
        return self.compute + self.all_to_all + self.gather + self.idle

    def parts(self) -> dict[str, float]:
        """Return the seconds by kind, which add up to the step."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("hidden", "traffic")}

    def sent(self, link: str) -> float:
        """Return the bytes that a rank sends over links of that name."""
        return sum(t.bytes for t in self.traffic if t.link == link)


def step_seconds(
    config: TransformerConfig, sequences: Sequence[int], rates: Rates, *, sequence_ranks: int = 1, cfg_groups: int = 1
) -> float:
    """Return `step_time`'s total for a gang in one NVLink domain."""
    return step_time(config, sequences, rates, sequence_ranks=sequence_ranks, cfg_groups=cfg_groups).total


def step_time(
    config: TransformerConfig,
    sequences: Sequence[int],
    rates: Rates,
    *,
    sequence_ranks: int = 1,
    cfg_groups: int = 1,
    apart: bool = False,
    text_tokens: int = TEXT_TOKENS,
    quantize: Quantize = "none",
) -> StepTime:
    """Predict one forward pass of every sequence.

    Args:
        sequences: tokens of each, the guidance branches of a segment adjacent; `cluster.planning.slicing.assign`
            distributes them over ``cfg_groups``.
        sequence_ranks: ranks that share the tokens and the experts of a group.
        apart: the groups are in different NVLink domains.
        quantize: the form of the weights; it changes what is sent, but no rate of a product.

    Raises:
        ValueError: no sequences, or no ranks.
    """
    if not sequences or min(sequences) < 1:
        raise ValueError(f"sequences is {list(sequences)[:8]}: there must be one, and each at least 1 token long")
    if sequence_ranks < 1 or cfg_groups < 1:
        raise ValueError(f"sequence_ranks is {sequence_ranks}, cfg_groups {cfg_groups}: both must be at least 1")
    members = assign([config.forward_cost(n, text_tokens).total for n in sequences], cfg_groups)
    shares = [[sequences[i] for i in numbers] for numbers in members]
    groups = [_group(config, share, rates, sequence_ranks, text_tokens, quantize) for share in shares if share]
    busiest = max(groups, key=lambda group: group.total)
    # Ranks of a group without sequences wait for the whole of it.
    mean = {name: sum(group.parts()[name] for group in groups) / cfg_groups for name in busiest.parts()}
    traffic = busiest.traffic
    if cfg_groups > 1:
        link = rates.hardware.outside if apart else rates.hardware.inside
        longest = max(sum(share) for share in shares)  # each group's part is padded to it
        heard = float(cfg_groups - 1) * longest * _output_bytes(config, rates.hardware.value_bytes)
        traffic = (*traffic, Traffic("velocities of the other groups", link.name, heard))
        seconds = _wire(link, heard, 1)
        mean["gather"] += seconds
        total = busiest.total + seconds
    else:
        total = busiest.total
    mean["idle"] = 0.0
    mean["idle"] = max(0.0, total - sum(mean.values()))
    hidden = sum(group.hidden for group in groups) / cfg_groups
    return StepTime(**mean, hidden=hidden, traffic=traffic)


def _group(
    config: TransformerConfig,
    sequences: Sequence[int],
    rates: Rates,
    ranks: int,
    text_tokens: int,
    quantize: Quantize,
) -> StepTime:
    """Predict one group; ``idle`` is how much longer the busiest rank takes than the mean."""
    total = sum(sequences)
    own = math.ceil(total / ranks)
    share = own / total
    costs = [config.forward_cost(tokens, text_tokens) for tokens in sequences]
    text = config.forward_cost(0, text_tokens).text  # of one prompt: keys and values, whatever its clip's tokens
    own_text = text * math.ceil(len(sequences) / ranks)  # a rank makes those of the sequences that it has tokens of
    expert = config.expert_flops(total)
    attention = sum(cost.attention + cost.text - text for cost in costs)
    products = sum(cost.products for cost in costs) - expert
    uneven = 0.0 if balanced(config, ranks) else IMBALANCE - 1
    correction = rates.correction
    experts = correction * expert * share / rates.experts
    messages = _exchange(config, own, rates, ranks, uneven, experts, quantize)
    return StepTime(
        products=correction * (products * share + own_text) / rates.products,
        experts=experts,
        attention=correction * attention * share / rates.attention,
        passes=correction * own * _pass_bytes(config, rates.hardware.value_bytes, ranks) / rates.passes,
        all_to_all=messages.exposed,
        gather=messages.gather,
        idle=uneven * experts + messages.waiting,
        hidden=messages.hidden,
        traffic=messages.traffic,
    )


@dataclass(frozen=True)
class _Messages:
    """Seconds of the messages within a group; ``waiting``: for the longest of those to experts."""

    traffic: tuple[Traffic, ...] = ()
    exposed: float = 0.0
    hidden: float = 0.0
    gather: float = 0.0
    waiting: float = 0.0


def _exchange(
    config: TransformerConfig, own: int, rates: Rates, ranks: int, uneven: float, experts: float, quantize: Quantize
) -> _Messages:
    """``experts``: seconds of their work in all layers."""
    if ranks == 1:
        return _Messages()
    hardware = rates.hardware
    link, size, away, overlaps = hardware.inside, hardware.value_bytes, (ranks - 1) / ranks, hardware.is_gpu
    blocks = config.num_layers + len(config.vace_layers)
    heads = blocks * 4.0 * own * config.dim * size * away
    seconds = _wire(link, heads, blocks * HEAD_MESSAGES)
    projection = rates.correction * 2.0 * own * config.dim**2 / rates.products
    hidden = 2 * blocks * min(seconds / (4 * blocks), projection) if overlaps else 0.0
    traffic = [Traffic("attention: q, k, v and the result", link.name, heads)]
    waiting = price = 0.0
    if config.moe is not None:
        layers = len(config.moe.layers)
        eight = quantised_layers(config, quantize)
        row = (layers - eight) * row_bytes(config, ranks, size) + eight * row_bytes(config, ranks, size, quantised=True)
        rows = own * away * (row + layers * config.moe.top_k * PAIR_BYTES)
        chunks = chunking(config, rates, ranks).of(own)
        wire = _wire(link, rows, layers)  # with the counts, one message for all chunks
        waiting = uneven * _wire(link, rows, 0)
        seconds += wire + layers * CHUNK_MESSAGES * link.latency
        hidden += min(wire, experts) * (1 - 1 / chunks)
        price = layers * (chunks - 1) * chunk_seconds(config, rates, ranks)
        traffic.append(Traffic("experts: rows there and back", link.name, rows))
    output = own * (ranks - 1.0) * _output_bytes(config, size)
    traffic.append(Traffic("output of all tokens", link.name, output))
    exposed = seconds - hidden + LENT * hidden + price
    return _Messages(tuple(traffic), exposed, hidden, _wire(link, output, 1), waiting)


def _wire(link: Link, sent: float, collectives: int) -> float:
    return sent / (link.bandwidth * link.fraction) + collectives * link.latency


def _output_bytes(config: TransformerConfig, size: int) -> float:
    """Of one token."""
    return float(math.prod(config.patch_size) * config.out_channels * size)


def _pass_bytes(config: TransformerConfig, size: int, ranks: int) -> float:
    """Of one token."""
    blocks = config.num_layers + len(config.vace_layers)
    rows = float(blocks * (BLOCK_PASSES + (EXCHANGE_PASSES if ranks > 1 else 0)))
    if config.moe is not None:
        sent = DISPATCH_PASSES * ranks_of_token(config, ranks) if ranks > 1 else 0.0
        rows += len(config.moe.layers) * (EXPERT_PASSES * config.moe.top_k + sent)
    return rows * config.dim * size
