"""`zoetrope plan --gpu-memory`: which sizes a GPU of that memory can make, how, and how fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape

from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.sizes import SIZES

if TYPE_CHECKING:
    from zoetrope.cluster.planning.hardware import Hardware
    from zoetrope.cluster.planning.residence import Residence
    from zoetrope.model.families.family import Preset

GIB = 1 << 30
LEAST_GIB, MOST_GIB = 4.0, 1024.0


@dataclass(frozen=True)
class SizeOnGpu:
    """What one size takes of a GPU; predicted from shapes and datasheets.

    Attributes:
        fits: false if no way does; then the figures are those of the smallest. way: in words.
        gpu_bytes, host_bytes: of the GPU, and page-locked on the host. step_seconds, clip_seconds: denoising alone.
        break_even_tokens: of a forward pass, from which streaming costs nothing; 0 if nothing is streamed.
    """

    size: str
    width: int
    height: int
    frames: int
    tokens: int
    fits: bool
    way: str
    streamed_blocks: int
    blocks: int
    gpu_bytes: int
    weight_bytes: int
    activation_bytes: int
    host_bytes: int
    step_seconds: float
    clip_seconds: float
    break_even_tokens: float


def gpu_of(kind: str | None, memory: float) -> Hardware:
    """Return a kind of GPU with so many GiB; without a kind, the smallest known one that has as many.

    Raises:
        CliError: there is no such kind, or no such memory.
    """
    from zoetrope.cluster.planning.hardware import HARDWARE, hardware, with_memory
    from zoetrope.serving.cli.errors import bad_input

    if not LEAST_GIB <= memory <= MOST_GIB:
        raise bad_input("gpu-memory", f"{memory:g} must be {LEAST_GIB:g} to {MOST_GIB:g} GiB")
    if kind is None:
        known = sorted((gear for gear in HARDWARE.values() if gear.is_gpu), key=lambda gear: gear.memory)
        large = [gear for gear in known if gear.memory >= memory * GIB]
        found = (large or known[-1:])[0]
        kind = next(gear.name for gear in HARDWARE.values() if gear.memory == found.memory and gear.is_gpu)
    try:
        gear = hardware(kind)
    except ValueError as error:
        raise bad_input("gpu", str(error).removeprefix("gpu is ")) from None
    if not gear.is_gpu:
        raise bad_input("gpu", f"{kind!r} has no memory of its own: leave --gpu-memory away")
    return with_memory(gear, int(memory * GIB))


def sizes_on(
    preset: Preset, gear: Hardware, load: LoadOptions, ratio: str, duration: float, text_tokens: int, extra: str = ""
) -> list[SizeOnGpu]:
    """Plan every named size, or the native ones of a model that has such, on one GPU that has all parts of it."""
    from zoetrope.cluster.planning.calibration import rates_of
    from zoetrope.cluster.planning.residence import ClipWork, residence, ways
    from zoetrope.serving.cli.models import clip_size

    named = {name: ratios[ratio] for name, ratios in SIZES.items()}
    if extra and extra not in named:
        named[extra] = clip_size(extra, ratio)
    if preset.native_sizes:
        named = {"x".join(map(str, size)): size for size in preset.native_sizes}
    rates, rows = rates_of(gear), []
    for name, size in sorted(named.items(), key=lambda item: item[1][0] * item[1][1]):
        work = ClipWork.of(preset, gear, rates, size, duration, quantize=load.quantize, text_tokens=text_tokens)
        found = residence(work, load.offload)
        way = found or min(ways(work, load.offload), key=lambda way: way.memory.total)
        rows.append(_row(name, work, way, found is not None))
    return rows


def _row(name: str, work: object, way: Residence, fits: bool) -> SizeOnGpu:
    from zoetrope.cluster.planning.residence import ClipWork

    assert isinstance(work, ClipWork)
    return SizeOnGpu(
        size=name,
        width=work.width,
        height=work.height,
        frames=work.frames,
        tokens=way.tokens,
        fits=fits,
        way=way.words(),
        streamed_blocks=len(way.split.streamed),
        blocks=len(way.split.sizes),
        gpu_bytes=way.memory.total,
        weight_bytes=way.memory.weights,
        activation_bytes=way.memory.activations,
        host_bytes=way.memory.host,
        step_seconds=way.seconds,
        clip_seconds=way.seconds * work.preset.sampling.steps,
        break_even_tokens=way.break_even,
    )


def rendered(
    model: str, gear: Hardware, load: LoadOptions, rows: Sequence[SizeOnGpu], steps: int
) -> Iterator[RenderableType]:
    """Yield the parts of the table, labelled as predictions."""
    from zoetrope.serving.cli.tables import plain_table

    form = "" if load.quantize == "none" else f", weights in {load.quantize}"
    yield escape(f"{model} on one {gear.name.upper()} with {gear.memory / GIB:g} GiB{form}: predicted, not measured\n")
    table = plain_table("size", "frames", "GiB of the GPU", "of the host", "seconds a step", "minutes a clip", "")
    for row in rows:
        name = row.size if row.size in SIZES else f"{row.width}x{row.height}"
        numbers = (f"{row.gpu_bytes / GIB:.1f}", f"{row.host_bytes / GIB:.1f}")
        times = (f"{row.step_seconds:.2f}", f"{row.clip_seconds / 60:.1f}") if row.fits else ("-", "-")
        table.add_row(name, str(row.frames), *numbers, *times, row.way if row.fits else "does not fit")
    yield table
    yield ""
    free = max((row.break_even_tokens for row in rows if row.fits), default=0.0)
    if free:
        speed = f"{gear.host / 1e9:g} GB/s (assumed)"
        yield f"- A block is copied while another computes, at {speed}: that is free from {free:,.0f} tokens a pass on."
    if load.quantize != "none":
        yield f"- Products in {load.quantize} are predicted at the speed of the others."
    yield f"- A clip has {steps} steps; encoding the prompt and decoding are not counted."
    yield escape(f"- {gear.source}")
