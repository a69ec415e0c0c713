"""How long a step takes and what it sends, from shapes and rates alone. Pure and cheap: a watchdog may ask every step.

A step is a roofline: FLOPs (`model.costs`) over rates of products, experts and attention, bytes of the passes between
them over the memory's bandwidth, bytes on the wire over the links', one after the other: nothing is taken to overlap.
What it leaves out: launches, the host's own time, samplers and packing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from cluster.hardware import Hardware, Link
from cluster.parallel.dispatch import PAIR_BYTES
from cluster.parallel.slicing import assign
from model.config import TransformerConfig
from model.costs import TEXT_TOKENS, expert_flops, forward_cost

# Reads and writes of a token's whole row in a block, beside the products: three residual norms of two each way, q and k
# of the self-attention, q of the cross-attention.
BLOCK_PASSES = 3 * 4 + 2 * 2 + 2
EXCHANGE_PASSES = 4 * 2  # q, k, v copied into the order of a message, the result out of it
COMBINE_PASSES = 1  # of an expert's row: the gather is part of its product
DISPATCH_PASSES = 4  # of a row that is sent, in a gang: copied to be sent, made of its experts' rows, added up at home

# Collectives of a block, for their latency: q, k, v together and the result; counts, pairs, rows and their results.
ATTENTION_COLLECTIVES, EXPERT_COLLECTIVES = 2, 4

IMBALANCE = 1.15  # assumed: the busiest rank's rows over the mean's where the routing does not make them equal


@dataclass(frozen=True)
class Rates:
    """What a rank does in a second: FLOP/s of three kinds of work, bytes/s of passes over memory.

    Attributes:
        origin: ``roofline``: all from a datasheet and assumed fractions; ``calibrated``: at least one was measured.
        correction: measured over predicted seconds of whole steps on one GPU; 1 without such a measurement.
        notes: where each figure comes from.
    """

    hardware: Hardware
    products: float
    experts: float
    attention: float
    passes: float
    origin: Literal["roofline", "calibrated"] = "roofline"
    correction: float = 1.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Traffic:
    """Bytes that a rank sends in a step, and as many that it receives."""

    what: str
    link: str
    bytes: float


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, means over the ranks; ``idle`` is waiting for the busiest one, so they add up to the step."""

    products: float = 0.0
    experts: float = 0.0
    attention: float = 0.0
    passes: float = 0.0
    all_to_all: float = 0.0
    gather: float = 0.0
    idle: float = 0.0
    traffic: tuple[Traffic, ...] = ()

    @property
    def compute(self) -> float:
        return self.products + self.experts + self.attention + self.passes

    @property
    def total(self) -> float:
        return self.compute + self.all_to_all + self.gather + self.idle

    def parts(self) -> dict[str, float]:
        """Seconds by kind."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "traffic"}

    def sent(self, link: str) -> float:
        """Bytes that a rank sends over links of that name."""
        return sum(t.bytes for t in self.traffic if t.link == link)


def roofline(hardware: Hardware) -> Rates:
    """Peaks and the assumed fractions of them."""
    return Rates(
        hardware=hardware,
        products=hardware.peak * hardware.products,
        experts=hardware.peak * hardware.experts,
        attention=hardware.peak * hardware.attention,
        passes=hardware.bandwidth * hardware.passes,
        notes=(
            f"assumed: {hardware.products:.0%} of peak in products, {hardware.experts:.0%} in experts, "
            f"{hardware.attention:.0%} in attention, {hardware.passes:.0%} of the memory's bandwidth",
        ),
    )


def step_seconds(
    config: TransformerConfig, sequences: Sequence[int], rates: Rates, *, sequence_ranks: int = 1, cfg_groups: int = 1
) -> float:
    """`step_time`'s total for a gang in one NVLink domain."""
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
) -> StepTime:
    """One forward of every sequence.

    Args:
        sequences: tokens of each, the guidance branches of a segment side by side; `cluster.parallel.slicing.assign`
            spreads them over ``cfg_groups``.
        sequence_ranks: that share the tokens and the experts of a group.
        apart: the groups sit in different NVLink domains.

    Raises:
        ValueError: no sequences, or no ranks.
    """
    if not sequences or min(sequences) < 1:
        raise ValueError(f"sequences is {list(sequences)[:8]}: there must be one, and each at least 1 token long")
    if sequence_ranks < 1 or cfg_groups < 1:
        raise ValueError(f"sequence_ranks is {sequence_ranks}, cfg_groups {cfg_groups}: both must be at least 1")
    members = assign([forward_cost(config, n, text_tokens).total for n in sequences], cfg_groups)
    shares = [[sequences[i] for i in numbers] for numbers in members]
    groups = [_group(config, share, rates, sequence_ranks, text_tokens) for share in shares if share]
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
    return StepTime(**mean, traffic=traffic)


def balanced(config: TransformerConfig, sequence_ranks: int) -> bool:
    """Whether every rank gets as many rows whatever the router says: with one expert of each group for a token, ranks
    that hold whole groups do."""
    moe = config.moe
    if moe is None or sequence_ranks == 1:
        return True
    return moe.router == "grouped_top1" and moe.groups % sequence_ranks == 0


def ranks_of_token(config: TransformerConfig, ranks: int) -> float:
    """How many of the ranks a token's experts are on, on average, if all experts are chosen alike: so many rows of it
    are sent in a routed layer. 0 where there are no experts."""
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


def _group(
    config: TransformerConfig, sequences: Sequence[int], rates: Rates, ranks: int, text_tokens: int
) -> StepTime:
    """Of one group; what the busiest rank takes longer than the mean is ``idle``."""
    total = sum(sequences)
    own = math.ceil(total / ranks)
    share = own / total
    costs = [forward_cost(config, tokens, text_tokens) for tokens in sequences]
    text = forward_cost(config, 0, text_tokens).text  # of one prompt: keys and values, whatever the tokens
    own_text = text * math.ceil(len(sequences) / ranks)  # a rank makes those of the sequences that it has tokens of
    expert = expert_flops(config, total)
    attention = sum(cost.attention + cost.text - text for cost in costs)
    products = sum(cost.products for cost in costs) - expert
    uneven = 0.0 if balanced(config, ranks) else IMBALANCE - 1
    correction = rates.correction
    experts = correction * expert * share / rates.experts
    traffic, all_to_all, gather, uneven_wire = _exchange(config, own, rates.hardware, ranks, uneven)
    return StepTime(
        products=correction * (products * share + own_text) / rates.products,
        experts=experts,
        attention=correction * attention * share / rates.attention,
        passes=correction * own * _pass_bytes(config, rates.hardware.value_bytes, ranks) / rates.passes,
        all_to_all=all_to_all,
        gather=gather,
        idle=uneven * experts + uneven_wire,
        traffic=traffic,
    )


def _exchange(
    config: TransformerConfig, own: int, hardware: Hardware, ranks: int, uneven: float
) -> tuple[tuple[Traffic, ...], float, float, float]:
    """What goes between the ranks of a group; seconds of all-to-all, of the gather, and of waiting in the former."""
    if ranks == 1:
        return (), 0.0, 0.0, 0.0
    link, size, away = hardware.inside, hardware.value_bytes, (ranks - 1) / ranks
    blocks = config.num_layers + len(config.vace_layers)
    heads = blocks * 4.0 * own * config.dim * size * away
    seconds = _wire(link, heads, blocks * ATTENTION_COLLECTIVES)
    traffic = [Traffic("attention: q, k, v and the result", link.name, heads)]
    waiting = 0.0
    if config.moe is not None:
        layers = len(config.moe.layers)
        row = 2.0 * ranks_of_token(config, ranks) * config.dim * size
        rows = layers * own * away * (row + config.moe.top_k * PAIR_BYTES)
        seconds += _wire(link, rows, layers * EXPERT_COLLECTIVES)
        waiting = uneven * _wire(link, rows, 0)
        traffic.append(Traffic("experts: rows there and back", link.name, rows))
    output = own * (ranks - 1.0) * _output_bytes(config, size)
    traffic.append(Traffic("output of all tokens", link.name, output))
    return tuple(traffic), seconds, _wire(link, output, 1), waiting


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
        rows += len(config.moe.layers) * (COMBINE_PASSES * config.moe.top_k + sent)
    return rows * config.dim * size
