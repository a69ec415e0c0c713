"""Time the decoding of a clip by the public autoencoders' networks with random weights: seconds and peak memory.

python -m zoetrope.benchmarks.gpu_day.decode --size 480p --size 720p --out FILE
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import device_name
from zoetrope.benchmarks.random_checkpoint import small_autoencoder
from zoetrope.model.checkpoints.original import WAN22_AUTOENCODER
from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.codecs.decode_plan import Decoding, DtypeChoice
from zoetrope.model.families.family import AutoencoderKind
from zoetrope.model.families.wan import WAN21_VAE, WAN22_VAE
from zoetrope.model.request.sizes import SIZES

GIB = 2**30
DTYPES: tuple[DtypeChoice, ...] = ("bfloat16", "float32")  # the default on a GPU first
WIDTHS = {"base_dim": 160, "decoder_base_dim": 256}  # of the public autoencoder of Wan 2.2; diffusers' own are 2.1's


@dataclass(frozen=True)
class DecodeTiming:
    """One clip, whole frames: ``seconds`` for all of them, after two latent frames that do not count."""

    autoencoder: str
    dtype: str
    size: str
    frames: int
    seconds: float
    peak_gib: float | None


def public_autoencoder(kind: AutoencoderKind) -> AutoencoderKLWan:
    """Return a network of the public shape, with random weights."""
    more: dict[str, Any] = {**WAN22_AUTOENCODER, **WIDTHS} if kind == WAN22_VAE else {}
    scales = {"scale_factor_spatial": kind.spatial, "scale_factor_temporal": kind.temporal}
    return AutoencoderKLWan(z_dim=kind.z_dim, **scales, **more).eval().requires_grad_(False)


@torch.inference_mode()
def measure(autoencoder: WanAutoencoder, size: str, latent_frames: int, device: torch.device) -> tuple[int, float]:
    """Decode a random clip; return frames and seconds. ``size``: a name of `SIZES` or ``WIDTHxHEIGHT``."""
    width, height = SIZES[size]["16:9"] if size in SIZES else map(int, size.split("x"))
    cells = (-(-height // autoencoder.spatial), -(-width // autoencoder.spatial))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(autoencoder.z_dim, latent_frames, *cells, generator=generator)
    for _ in autoencoder.decode_stream(latents[:, :2]):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    frames = sum(chunk.shape[1] for chunk in autoencoder.decode_stream(latents))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return frames, time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", action="append", required=True, help="480p, 720p, 1080p or WIDTHxHEIGHT; repeatable")
    parser.add_argument(
        "--latent-frames", type=command.at_least(2), default=21, help="21, which are 81 frames (default)"
    )
    parser.add_argument("--tiny", action="store_true", help="narrow networks and few frames, for a CPU")
    parser.add_argument("--out", type=Path, required=True, help="write the figures to this file")
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not args.tiny:
        parser.error("a CPU takes minutes for a frame: use --tiny")
    rows: list[dict[str, Any]] = []
    for kind in (WAN21_VAE, WAN22_VAE):
        for dtype in DTYPES:
            network = small_autoencoder(kind) if args.tiny else public_autoencoder(kind)
            autoencoder = WanAutoencoder(torch.nn.Module.to(network, device), Decoding(dtype=dtype))
            for size in args.size:
                frames, seconds = measure(autoencoder, size, 3 if args.tiny else args.latent_frames, device)
                peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
                row = DecodeTiming(kind.name, dtype, size, frames, seconds, peak)
                rows.append(asdict(row))
                print(f"{kind.name} {dtype} {size}: {frames} frames in {seconds:.2f} s", flush=True)
                record = {"device": device_name(device), "torch": torch.__version__, "tiny": args.tiny, "rows": rows}
                command.write_json(args.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
