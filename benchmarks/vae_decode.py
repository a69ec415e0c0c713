"""Measure decoding by Wan's autoencoders with random weights: seconds, peak memory, bytes moved, PSNR.

    python -m zoetrope.benchmarks.vae_decode --size 480p --size 720p --size 1080p --out vae-decode.json

The dtypes are ``float32``, as diffusers decodes, channels first, and ``bfloat16``, channels last. The ways are frames
that are ``whole``, and ``tiles`` with their caches on the device or, ``tiles-host``, in page-locked host memory. The
third and later latent frames cost the same, so a few give the seconds of a clip. Each figure is written as soon as it
is known. Random weights cost the same as trained ones; they are scaled so that frames have the contrast of a video.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.memory_copies import copied_bytes
from zoetrope.model.checkpoints.original import public_autoencoder
from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.codecs.decode_memory import LiveBytes
from zoetrope.model.codecs.decode_plan import DecodePlan, DecodePlanner, Decoding, DtypeChoice
from zoetrope.model.codecs.tiling import Tiling
from zoetrope.model.request.sizes import SIZES, size_of
from zoetrope.model.request.tiles import OVERLAP, tiles_for

Way = Literal["whole", "tiles", "tiles-host"]
WAYS: tuple[Way, ...] = get_args(Way)
DTYPES: tuple[DtypeChoice, ...] = ("float32", "bfloat16")
LATENT_CHANNELS = {"wan2.1": 16, "wan2.2": 48}
CONTRAST = 0.4  # standard deviation of a video's values in -1..1
SEED = 0


@dataclass(frozen=True)
class DecodeResult:
    """One way to decode clips of one size.

    Attributes:
        predicted_bytes, peak_bytes: of the device, with the decoder's weights. On a CPU, of tensors alone.
        planned_bytes: what `DecodePlan.moved_bytes` says. moved_bytes: between host and device while the measured
            ``frames`` were decoded, by the profiler's name of the kind of copy; None where it sees no GPU.
        warm_seconds: of the first run, in which cuDNN chooses algorithms.
        chunk_seconds: of the third and later latent frames, median. clip_seconds: of ``clip_frames`` frames, from these
            and from the first two latent frames; of the second run.
        psnr: of the frames against whole frames in float32, in dB; None also if they are equal.
        error: why there are no figures.
    """

    vae: str
    size: str
    width: int
    height: int
    dtype: str
    way: str
    tiles: int
    frames: int
    clip_frames: int
    predicted_bytes: int
    planned_bytes: int
    peak_bytes: int | None = None
    moved_bytes: Mapping[str, int] | None = None
    warm_seconds: float | None = None
    chunk_seconds: float | None = None
    clip_seconds: float | None = None
    psnr: float | None = None
    error: str | None = None


def random_autoencoder(config: Mapping[str, Any], device: torch.device, dtype: DtypeChoice) -> WanAutoencoder:
    """Return an autoencoder whose frames have the contrast of a video."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(SEED)
    with torch.device(device):
        network = AutoencoderKLWan.from_config(dict(config)).eval().requires_grad_(False)
    latents = torch.randn(network.config.z_dim, 1, 8, 8, generator=torch.Generator().manual_seed(SEED))
    spread = torch.cat(list(WanAutoencoder(network, Decoding("float32")).decode_stream(latents)), dim=1).std()
    for parameter in network.decoder.conv_out.parameters():
        parameter.mul_(CONTRAST / spread)
    return WanAutoencoder(network, Decoding(dtype))


def plan_of(autoencoder: WanAutoencoder, way: Way, height: int, width: int, tiling: Tiling) -> DecodePlan:
    """Return the plan of a way, as for a GPU."""
    planner = autoencoder.planner
    decoding = Decoding(planner.decoding.dtype, "never" if way == "whole" else "always")
    options = DecodePlanner(planner.config, "cuda", decoding).options(height, width, tiling)
    return options[-1] if way == "tiles-host" else options[0]


class DecodeTimer:
    """Decodes clips by a plan, and gives frames of 8 bit to the host as the service does."""

    def __init__(self, autoencoder: WanAutoencoder, plan: DecodePlan, latents: torch.Tensor) -> None:
        self._autoencoder, self._plan, self._latents = autoencoder, plan, latents

    def frames(self) -> Iterator[torch.Tensor]:
        """Yield frames ``[3, f, H, W]`` uint8 on the host."""
        for chunk in self._autoencoder.decode_as(self._latents, self._plan):
            yield ((chunk + 1) * 127.5).round().to(torch.uint8).cpu()

    def run(self) -> tuple[torch.Tensor, list[float]]:
        """Return all frames, and the seconds of each latent frame."""
        seconds, chunks, started = [], [], time.perf_counter()
        for chunk in self.frames():
            chunks.append(chunk)
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
        return torch.cat(chunks, dim=1), seconds


def clip_seconds(seconds: list[float], frames: int, temporal: int) -> tuple[float, float]:
    """Return the seconds of a later latent frame and of a clip of ``frames`` frames, from those of at least three."""
    chunk = statistics.median(seconds[2:])
    return chunk, seconds[0] + seconds[1] + ((frames - 1) // temporal - 1) * chunk


def psnr(frames: torch.Tensor, reference: torch.Tensor) -> float | None:
    """Return the PSNR of 8-bit frames in dB; None if they are equal."""
    error = float((frames.float() - reference.float()).square().mean())
    return 10 * math.log10(255**2 / error) if error else None


def measure(
    autoencoder: WanAutoencoder, blank: DecodeResult, plan: DecodePlan, device: torch.device, latent_frames: int
) -> tuple[DecodeResult, torch.Tensor]:
    """Return the figures of a plan, and the frames."""
    cuda, spatial = device.type == "cuda", autoencoder.spatial
    generator = torch.Generator().manual_seed(SEED)
    shape = (autoencoder.z_dim, latent_frames, plan.height // spatial, plan.width // spatial)
    timer = DecodeTimer(autoencoder, plan, torch.randn(shape, generator=generator))
    started = time.perf_counter()
    timer.run()
    warm = time.perf_counter() - started
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    frames, seconds = timer.run()
    if cuda:
        peak = torch.cuda.max_memory_allocated(device)
    else:
        with LiveBytes() as live:
            timer.run()
        peak = live.peak + plan.tile.weights
    chunk, clip = clip_seconds(seconds, blank.clip_frames, autoencoder.temporal)
    result = replace(
        blank,
        peak_bytes=peak,
        moved_bytes=copied_bytes(timer.run),
        warm_seconds=warm,
        chunk_seconds=chunk,
        clip_seconds=clip,
    )
    return result, frames


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    device = torch.device(args.device)
    where = header(device, command.command_line("vae_decode", arguments), SEED)
    rows: list[DecodeResult] = []
    references: dict[tuple[str, str], torch.Tensor] = {}
    for vae in args.vae or LATENT_CHANNELS:
        config = public_autoencoder(LATENT_CHANNELS[vae])
        if args.channels:
            config |= {"base_dim": args.channels} | ({"decoder_base_dim": args.channels} if vae == "wan2.2" else {})
        for dtype in args.dtype or DTYPES:
            autoencoder = random_autoencoder(config, device, dtype)
            for size in args.size or SIZES:
                for way in args.way or WAYS:
                    row, frames = _measured(autoencoder, vae, size, dtype, way, device, args)
                    if row is None:
                        continue
                    if frames is not None and (dtype, way) == ("float32", "whole"):
                        references[vae, size] = frames
                    elif frames is not None and (vae, size) in references:
                        row = replace(row, psnr=psnr(frames, references[vae, size]))
                    rows.append(row)
                    print(_line(row), flush=True)
                    command.write_results(args.out, {**where, "rows": [asdict(row) for row in rows]})
                    gc.collect()
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
            del autoencoder
    return 0


def _measured(
    autoencoder: WanAutoencoder, vae: str, size: str, dtype: str, way: Way, device: torch.device, args: Any
) -> tuple[DecodeResult | None, torch.Tensor | None]:
    """Return a row and its frames; no row if the size is not decoded in tiles, no frames if memory is short."""
    width, height = (-(-side // autoencoder.spatial) * autoencoder.spatial for side in size_of(size))
    tiling = _tiling(width, height, args.tile)
    if (way != "whole" and tiling is None) or (way == "tiles-host" and device.type == "cpu"):
        return None, None
    plan = plan_of(autoencoder, way, height, width, tiling or Tiling(height, width, 0))
    row = DecodeResult(
        vae=vae,
        size=size,
        width=width,
        height=height,
        dtype=dtype,
        way=way,
        tiles=plan.tiles,
        frames=1 + (args.latents - 1) * autoencoder.temporal,
        clip_frames=args.frames,
        predicted_bytes=plan.device_bytes + plan.tile.weights,
        planned_bytes=plan.moved_bytes(args.latents),
    )
    try:
        return measure(autoencoder, row, plan, device, args.latents)
    except torch.OutOfMemoryError as error:
        return replace(row, error=" ".join(str(error).split())[:200]), None


def _tiling(width: int, height: int, side: int | None) -> Tiling | None:
    """Return the service's tiles, or square ones of ``side`` pixels."""
    if side is not None:
        return Tiling(side, side, min(OVERLAP, side // 2))
    tiles = tiles_for(width, height)
    return None if tiles is None else Tiling(*tiles)


def _line(row: DecodeResult) -> str:
    what = f"{row.vae} {row.size} {row.dtype} {row.way}"
    if row.clip_seconds is None or row.peak_bytes is None:
        return f"{what}: {row.error}"
    near = "" if row.psnr is None else f", {row.psnr:.1f} dB"
    return (
        f"{what}: {row.clip_seconds:.2f} s for {row.clip_frames} frames, {row.peak_bytes / 1e9:.2f} GB at most, "
        f"{row.predicted_bytes / 1e9:.2f} predicted{near}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("vae_decode", __doc__)
    for name, choices in (("vae", tuple(LATENT_CHANNELS)), ("dtype", DTYPES), ("way", WAYS)):
        parser.add_argument(f"--{name}", action="append", choices=choices, help="repeatable (default: all)")
    parser.add_argument("--size", action="append", help="480p, 720p, 1080p or WIDTHxHEIGHT; repeatable (default: all)")
    parser.add_argument("--latents", type=command.at_least(3), default=4, help="latent frames decoded (default: 4)")
    parser.add_argument("--frames", type=command.at_least(5), default=81, help="frames of the clip (default: 81)")
    parser.add_argument("--tile", type=command.at_least(16), help="side of square tiles (default: as the service's)")
    parser.add_argument("--channels", type=command.at_least(4), help="width of the networks (default: the public one)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--out", type=Path, help="write the figures to OUT.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
