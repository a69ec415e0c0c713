"""Measure a real denoising step of a preset with random weights: seconds, peak memory, and where the time goes.

    python -m zoetrope.benchmarks.step --preset wan2.7-27b --size 480p --size 720p --size 1080p --duration 5 \\
        --out benchmarks/results/step.json

A step runs all guidance branches of one clip packed in one forward, as the service does, in bfloat16 on a GPU and
float32 on a CPU.
The shares are those of the blocks' attention and feed-forward modules; the rest is norms, modulation, embeddings and
heads. Random weights cost the same as trained ones; routing is as even as an untrained router makes it.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast, get_args

import torch
from torch import nn

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.part_timer import PartTimer
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.families import all_presets
from zoetrope.model.network.blocks import Attention
from zoetrope.model.network.costs import clip_cost, frames_of
from zoetrope.model.network.experts import DenseFeedForward, MoEFeedForward
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.network.quantized import QuantizedExperts
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.request.sizes import SIZES

GIB, SEED = 2**30, 0
PARTS: dict[str, tuple[type[nn.Module], ...]] = {
    "attention": (Attention,),
    "experts": (MoEFeedForward, QuantizedExperts),
    "dense feed-forward": (DenseFeedForward,),
}


@dataclass(frozen=True)
class StepResult:
    """Medians over the repeats; ``shares`` add up to 1. ``forwards``: branches in the pack, ``tokens``: of each."""

    preset: str
    size: str
    frames: int
    tokens: int
    forwards: int
    seconds: float
    peak_gib: float | None
    shares: dict[str, float]
    pflop: float


def parts_of(network: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the modules of each part."""
    shared = {id(module.shared) for module in network.modules() if isinstance(module, MoEFeedForward)}
    return {
        part: [m for m in network.modules() if type(m) in kinds and id(m) not in shared]  # it counts with the experts
        for part, kinds in PARTS.items()
    }


@torch.inference_mode()
def measure(
    network: Network, shape: tuple[int, int, int, int], forwards: int, repeats: int
) -> tuple[float, dict[str, float], int]:
    """Return the seconds of a step of ``forwards`` packed branches, the share of each part and the tokens of a branch:
    medians of ``repeats`` after a warm-up."""
    device = network.device
    watch = PartTimer(parts_of(module_of(network)), device)
    text = torch.zeros(512, network.config.text_dim, device=device)
    conditions = blank_conditions(network.config, shape, text)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    batch = network.pack([conditions.sequence(latents, 500.0, text)] * forwards)
    runs: list[tuple[float, dict[str, float]]] = []
    for _ in range(repeats + 1):
        watch.take()
        start = watch.now()
        network(batch)
        end = watch.now()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        runs.append((watch.seconds(start, end), watch.take()))
    seconds, parts = sorted(runs[1:], key=lambda run: run[0])[(repeats - 1) // 2]
    shares = {part: value / seconds for part, value in parts.items()}
    return seconds, {**shares, "rest": 1 - sum(shares.values())}, batch.cu_tokens.lengths[0]


def main(arguments: list[str] | None = None) -> int:
    parser, presets = command.parser("step", __doc__), sorted(all_presets())
    parser.add_argument("--preset", default="wan2.7-27b", choices=presets, help="model (default: wan2.7-27b)")
    parser.add_argument(
        "--size", action="append", choices=sorted(SIZES), help="size at 16:9; repeatable (default: 480p)"
    )
    parser.add_argument(
        "--quantize", choices=get_args(Quantize), default="none", help="form of the weights (default: none)"
    )
    parser.add_argument("--duration", type=float, default=5.0, help="seconds of the clip (default: 5)")
    parser.add_argument("--repeats", type=command.at_least(1), default=3, help="timed steps (default: 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--out", type=Path, help="write the figures to OUT.json")
    args = parser.parse_args(arguments)
    preset, device = all_presets()[args.preset], torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = random_network(
        preset.config, device, dtype, RandomWeights(seed=SEED, std=0.02), quantize=cast(Quantize, args.quantize)
    )
    rows: list[StepResult] = []
    for size in args.size or ["480p"]:
        width, height = preset.denoised_size(*SIZES[size]["16:9"])
        cost = clip_cost(preset, width, height, args.duration, 1)
        side, patch = preset.vae.spatial, preset.config.patch_size
        unit_h, unit_w = side * patch[1], side * patch[2]
        frames = frames_of(args.duration, preset.sampling.fps, preset.vae.temporal)
        shape = (
            preset.vae.z_dim,
            1 + (frames - 1) // preset.vae.temporal,
            -(-height // unit_h) * patch[1],
            -(-width // unit_w) * patch[2],
        )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds, shares, tokens = measure(network, shape, cost.forwards, args.repeats)
        peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
        row = StepResult(
            preset.name, size, frames, tokens, cost.forwards, seconds, peak, shares, cost.step_flops / 1e15
        )
        rows.append(row)
        split = ", ".join(f"{part} {100 * share:.0f} %" for part, share in shares.items())
        memory = "" if peak is None else f", peak {peak:.1f} GiB"
        print(
            f"{row.preset} {size} {frames} frames, {tokens} tokens: {seconds:.3f} s per step{memory}; {split}",
            flush=True,
        )
    if args.out:
        record = {
            **header(device, command.command_line("step", arguments), SEED),
            "dtype": str(dtype),
            "quantize": args.quantize,
            "rows": [asdict(row) for row in rows],
        }
        command.write_results(args.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
