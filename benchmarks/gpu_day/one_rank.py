"""Send a gang's messages through NCCL on one GPU, to itself, and compare with a process alone.

    python -m zoetrope.benchmarks.gpu_day.one_rank --out FILE

Nano's network with random weights, float32, one forward: exit code 1 if the velocities differ by more than rounding.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from zoetrope.benchmarks import command
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.parallel.runner import run_gang
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.denoising.forward import ForwardRun, run_alone
from zoetrope.model.families import all_presets

TIMEOUT = timedelta(seconds=30)
SHAPE = (4, 12, 20)  # latent frames, rows and columns
LIMIT = 1e-5


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda", help="torch device; gloo carries the messages of a CPU")
    parser.add_argument("--out", type=Path, required=True, help="write the difference and the times to this file")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, f"file://{folder}/meeting", TIMEOUT, world_size=1, rank=0)
        try:
            difference, alone, gang = _compare(device)
        finally:
            dist.destroy_process_group()
    right = difference <= LIMIT
    record = {"backend": backend, "difference": difference, "limit": LIMIT, "right": right}
    command.write_json(args.out, {**record, "alone_seconds": alone, "gang_seconds": gang})
    print(f"{backend}: velocities differ by {difference:.1e}, limit {LIMIT:.0e}")
    return 0 if right else 1


@torch.inference_mode()
def _compare(device: torch.device) -> tuple[float, float, float]:
    """Return the relative difference, and the seconds alone and through the group."""
    preset = all_presets()["nano"]
    config = preset.config
    network = random_network(config, device, torch.float32, RandomWeights(seed=0, std=0.02))
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(7, config.text_dim, generator=generator).to(device)
    shape = (preset.vae.z_dim, *SHAPE)
    latents = torch.randn(shape, generator=generator).to(device)
    sequences = [blank_conditions(config, shape, text).sequence(latents, 500.0, text)]
    mesh = Mesh(sequence=dist.group.WORLD)
    expected, alone = _timed(device, lambda: run_alone(network, sequences))
    ours, gang = _timed(device, lambda: run_gang(mesh, network, sequences))
    (a,), (b,) = ours.velocities, expected.velocities
    return float((a.double() - b.double()).norm() / b.double().norm()), alone, gang


def _timed(device: torch.device, run: Callable[[], ForwardRun]) -> tuple[ForwardRun, float]:
    """Return the second of two runs, and its seconds."""
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    found = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
