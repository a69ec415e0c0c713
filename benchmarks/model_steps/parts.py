"""Where a step's time goes: by part of the network, and by kind of operation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from zoetrope.benchmarks.model_steps.resources import clock
from zoetrope.benchmarks.part_timer import PartTimer
from zoetrope.model.network.blocks import Block
from zoetrope.model.network.embedders import PatchEmbedding
from zoetrope.model.network.experts import MoEFeedForward
from zoetrope.model.network.protocol import Network, module_of

NETWORK, BLOCKS = "network", "blocks"
INSIDE = ("self-attention", "cross-attention", "feed-forward", "experts")  # of a block
BESIDE = ("patch embedding", "head")
ATTENTION, PRODUCTS = ("attention", "fmha"), ("addmm", "aten::mm", "bmm", "grouped_mm", "gemm", "cutlass")


def parts_of(network: Network) -> dict[str, list[nn.Module]]:
    """Return the modules of each part that the network has; the whole and its blocks are parts too."""
    module = module_of(network)
    blocks = [block for block in network.layers() if isinstance(block, Block)]
    routed = [block.ffn for block in blocks if isinstance(block.ffn, MoEFeedForward)]
    found: dict[str, list[nn.Module]] = {
        NETWORK: [module],
        BLOCKS: list(network.layers()),
        "self-attention": [block.attn1 for block in blocks],
        "cross-attention": [block.attn2 for block in blocks],
        "feed-forward": [block.ffn for block in blocks if not isinstance(block.ffn, MoEFeedForward)],
        "experts": list(routed),
        "patch embedding": [part for part in module.modules() if isinstance(part, PatchEmbedding)],
        "head": [head for name, head in module.named_children() if name == "proj_out"],
    }
    return {part: modules for part, modules in found.items() if modules}


def step_parts(network: Network, step: Callable[[], object]) -> dict[str, float]:
    """Return the share of each part of a step; together they are 1. Norms and modulation are what the blocks do beside
    their layers; packing, guidance and the sampler what the step does beside the network."""
    device = network.device
    timer = PartTimer(parts_of(network), device, lambda: clock(device))
    try:
        start = timer.now()
        step()
        end = timer.now()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        whole, found = timer.seconds(start, end), timer.take()
    finally:
        timer.close()
    inside = {part: found[part] for part in INSIDE if part in found}
    beside = {part: found[part] for part in BESIDE if part in found}
    seconds = {
        **inside,
        "norms, modulation": found.get(BLOCKS, 0.0) - sum(inside.values()),
        **beside,
        "rest of the network": found[NETWORK] - found.get(BLOCKS, 0.0) - sum(beside.values()),
        "packing, guidance, sampler": whole - found[NETWORK],
    }
    return {part: value / whole for part, value in seconds.items()}


def step_operations(device: torch.device, step: Callable[[], object]) -> dict[str, float]:
    """Return the shares of attention, of matrix products and of all else in the time of a step's operations."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        step()
    seconds = {"attention": 0.0, "products": 0.0, "rest": 0.0}
    for event in found.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        kinds = {"attention": ATTENTION, "products": PRODUCTS}
        kind = next((kind for kind, names in kinds.items() if any(n in event.key.lower() for n in names)), "rest")
        seconds[kind] += spent
    total = sum(seconds.values())
    return {kind: value / total for kind, value in seconds.items()}
