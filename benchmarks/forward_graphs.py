"""Compare steps that replay a CUDA graph with eager ones: whether the bits are the same, and how much faster they are.

    python -m zoetrope.benchmarks.forward_graphs --preset wan2.7-27b --out FILE

A network with random weights and the preset's shape, of a few layers, for all layers are alike. At each size the runner
of the service (`model.denoising.graphs`) takes steps with other latents, noise levels and prompts, and every result is
compared with that of an eager step. Exits with 1 if a bit differs, or if nothing was captured.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.provenance import now
from zoetrope.kernels.select.proofs import triton_version
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.denoising.forward import Runner, run_alone
from zoetrope.model.denoising.graph_proofs import GraphProof, GraphTiming, network_shape, step_code
from zoetrope.model.denoising.graphs import GraphLimits, GraphRunner
from zoetrope.model.families import all_presets
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence as Tokens
from zoetrope.model.request.quantize import Quantize

SEED = 1
TOKENS = (1024, 4096, 8192, 16384, 32768)  # of a step, both branches together
LAYERS = 8  # of which in 8 bits the first two and the last three stay as they are
WORDS = 512
REPEATS = 5


def shortened(config: TransformerConfig, layers: int) -> TransformerConfig:
    """Return the configuration with the first ``layers`` layers alone."""
    kept = range(min(layers, config.num_layers))
    moe = config.moe
    if moe is not None:
        moe = moe.model_copy(update={"layers": tuple(layer for layer in moe.layers if layer in kept)})
    vace = tuple(layer for layer in config.vace_layers if layer in kept)
    return config.model_copy(update={"num_layers": len(kept), "moe": moe, "vace_layers": vace})


def step_of(network: Network, tokens: int, number: int, prompt: int) -> list[Tokens]:
    """Make the two branches of a step of about ``tokens``, with latents and noise level of ``number``, texts of
    ``prompt``."""
    config, device = network.config, network.device
    side = max(1, round((tokens / 2 / 4) ** 0.5))
    grid = (4, side, side)
    t, h, w = (length * patch for length, patch in zip(grid, config.patch_size, strict=True))
    noise, words = (torch.Generator().manual_seed(SEED + value) for value in (number, 1000 + prompt))
    latents = torch.randn(config.out_channels, t, h, w, generator=noise).to(device)
    made = []
    for _ in range(2):
        text = torch.randn(WORDS, config.text_dim, generator=words).to(device)
        conditions = blank_conditions(config, (config.out_channels, t, h, w), text)
        made.append(conditions.sequence(latents, 990.0 - 7 * number, text))
    return made


@torch.inference_mode()
def timing(network: Network, tokens: int, repeats: int) -> tuple[GraphTiming, int, int]:
    """Compare steps of one size; return also how many were replayed, and the bytes that the graph keeps."""
    runner = GraphRunner(GraphLimits(tokens=2 * tokens, memory=1 << 40, repeats=1))
    steps = [step_of(network, tokens, number, prompt=number // 3) for number in range(2 * 3)]
    error = 0.0
    for step in steps:  # the first is eager, and captured; the others are replayed
        ours, theirs = runner(network, step), run_alone(network, step)
        for mine, eager in zip(ours.velocities, theirs.velocities, strict=True):
            if not torch.equal(mine, eager):
                error = max(error, float((mine - eager).double().norm() / eager.double().norm()), 1e-30)
    replays, size = runner.replays, runner.size
    last = steps[-1]  # its prompts stay, as in a segment
    seconds = {name: _median(run, network, last, repeats) for name, run in (("eager", run_alone), ("graph", runner))}
    count = sum(velocity[0].numel() for velocity in theirs.velocities)
    patch = network.config.patch_size
    found = GraphTiming(count // (patch[0] * patch[1] * patch[2]), seconds["eager"], seconds["graph"], error)
    runner.clear()
    return found, replays, size


def _median(run: Runner, network: Network, step: list[Tokens], repeats: int) -> float:
    """Return the median seconds of a step, once the device is idle before and after."""
    taken = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run(network, step)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def measure(preset: str, quantize: Quantize, sizes: Sequence[int], layers: int, repeats: int) -> dict[str, Any]:
    """Return the rows of one network, and its proof."""
    config = shortened(all_presets()[preset].config, layers)
    device = torch.device("cuda", torch.cuda.current_device())
    weights = RandomWeights(seed=0, std=0.02)
    network = random_network(config, device, torch.bfloat16, weights, quantize=quantize)
    timings: list[GraphTiming] = []
    rows = []
    for tokens in sizes:
        found, replays, size = timing(network, tokens, repeats)
        timings.append(found)
        rows.append({**asdict(found), "ratio": found.ratio, "replays": replays, "bytes": size})
        print(
            f"{preset} {quantize}, {found.tokens} tokens: {found.eager:.5f} s eager, {found.graph:.5f} s replayed, "
            f"difference {found.error:.1e}, {replays} replays",
            flush=True,
        )
    proof = GraphProof(
        network=network_shape(all_presets()[preset].config, quantize),
        device=torch.cuda.get_device_name(device),
        torch=torch.__version__,
        triton=triton_version() or "none",
        fingerprint=step_code(),
        date=now(),
        timings=tuple(timings),
    )
    return {"preset": preset, "quantize": quantize, "layers": config.num_layers, "rows": rows, "proof": asdict(proof)}


def main(arguments: list[str] | None = None) -> int:
    parser, presets = command.parser("forward_graphs", __doc__), sorted(all_presets())
    parser.add_argument("--preset", action="append", choices=presets, help="repeatable (default: wan2.7-27b)")
    parser.add_argument(
        "--quantize",
        action="append",
        choices=get_args(Quantize),
        help="form of the weights; repeatable (default: none)",
    )
    parser.add_argument("--tokens", nargs="+", type=command.at_least(1), default=list(TOKENS), help="of the steps")
    parser.add_argument("--layers", type=command.at_least(1), default=LAYERS, help="of the networks (default: 8)")
    parser.add_argument("--repeats", type=command.at_least(1), default=REPEATS, help="timed steps (default: 5)")
    parser.add_argument("--out", type=Path, help="write the figures to OUT.json")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: there is no CUDA device: only one can capture graphs", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    record: dict[str, Any] = {**header(device, command.command_line("forward_graphs", arguments), SEED), "networks": []}
    for preset in args.preset or ["wan2.7-27b"]:
        for quantize in args.quantize or ["none"]:
            form = cast(Quantize, quantize)
            record["networks"].append(measure(preset, form, args.tokens, args.layers, args.repeats))
            command.write_results(args.out, record)
    rows = [row for network in record["networks"] for row in network["rows"]]
    return 0 if all(row["error"] == 0 and row["replays"] > 0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
