"""`zoetrope plan`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.markup import escape

from zoetrope.model.request.load_options import DEFAULT, LoadOptions
from zoetrope.model.request.sizes import RATIOS
from zoetrope.serving.cli.console import stderr, stdout
from zoetrope.serving.cli.generate_request import DEFAULT_MODEL
from zoetrope.serving.cli.load_options import ModelLoadOptions
from zoetrope.serving.cli.options import (
    JsonOption,
    ModelArgument,
    ModelOption,
    add_commands,
    one_model,
    option,
)

if TYPE_CHECKING:
    from zoetrope.cluster.planning.clip_decode import ClipDecode
    from zoetrope.cluster.planning.gang_plan import GangPlan

GIB = 2**30
KINDS = {
    "products": "products with weights",
    "experts": "experts",
    "attention": "attention",
    "passes": "passes over memory",
    "all_to_all": "all-to-all",
    "gather": "gather",
    "idle": "idle",
}
MEMORY = {
    "weights": "weights, exact",
    "activations": "activations, estimated from shapes",
    "buffers": "messages, segments' state, snapshots",
    "reserve": "reserve, assumed",
}


def plan(
    load: ModelLoadOptions,
    argument: ModelArgument = None,
    model: ModelOption = None,
    gpus: Annotated[int, option("N", "GPUs of one engine.")] = 8,
    size: Annotated[str, option("SIZE", "480p, 720p, 1080p or WIDTHxHEIGHT.")] = "720p",
    ratio: Annotated[str, option("RATIO", f"Aspect ratio: {', '.join(RATIOS)}.")] = RATIOS[0],
    duration: Annotated[float, option("SECONDS", "Length of the clip in seconds.")] = 5.0,
    gpu: Annotated[str, option("KIND", "Kind of GPU: h100, h200 or cpu.")] = "h100",
    nvlink: Annotated[int, option("N", "GPUs that NVLink connects.")] = 8,
    json: JsonOption = False,
) -> None:
    """Show how an engine would share a model's work.

    Memory, bytes on the wire, time of a step, and why; and how a clip is decoded.
    """
    from zoetrope.serving.cli.listing import plain, print_json

    named = one_model(argument, model) or DEFAULT_MODEL
    made, decodes = make_plan(named, gpus, size, ratio, duration, gpu, nvlink, load.resolved())
    if json:
        print_json({**plain(made), "decode": decodes})
    else:
        stdout().print(*_rendered(made, decodes), sep="\n")


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, plan)


def make_plan(
    model: str,
    gpus: int,
    size: str,
    ratio: str,
    duration: float,
    gpu: str,
    nvlink: int,
    load: LoadOptions = DEFAULT,
) -> tuple[GangPlan, list[ClipDecode]]:
    """Return the plan of an engine, and the ways to decode its clips, best first.

    Raises:
        CliError: bad input, or no plan works; the message says which would.
        ModelError: there is no such model, or an adapter does not fit it.
    """
    from zoetrope.model.request.tasks import ModelCard
    from zoetrope.serving.cli.errors import bad_input
    from zoetrope.serving.cli.models import check_duration, clip_size

    check_duration(duration)
    width, height = clip_size(size, ratio)

    from zoetrope.cluster.planning.clip_decode import clip_decodes
    from zoetrope.cluster.planning.gang_plan import PlanError, plan_gang
    from zoetrope.model.adapters.files.card import check_adapters
    from zoetrope.model.catalog.presets import open_model
    from zoetrope.model.codecs.decode_plan import Decoding
    from zoetrope.model.families import BUNDLED, PRESETS

    if model not in (*PRESETS, *BUNDLED) and not Path(model).is_dir() and "/" not in model:
        raise bad_input("model", f"{model!r} is neither a preset ({', '.join((*PRESETS, *BUNDLED))}) nor a directory")
    wanted = PRESETS[model] if model in PRESETS else open_model(model, load)
    if isinstance(wanted, ModelCard):
        warnings = wanted.warnings
    else:
        warnings = check_adapters(load.lora, wanted.config, wanted.transformers).warnings
    for warning in warnings:
        stderr().print(f"warning: {warning}", markup=False)
    try:
        decoding = Decoding.from_environment()
    except ValueError as error:
        raise bad_input("decoding", str(error)) from None
    try:
        made = plan_gang(wanted, gpus, gpu, width, height, duration, nvlink_domain=nvlink, quantize=load.quantize)
    except PlanError as error:
        raise bad_input(error.field, str(error)) from None
    return made, clip_decodes(wanted, made, decoding)


def _rendered(plan: GangPlan, decodes: list[ClipDecode]) -> Iterator[RenderableType]:
    from zoetrope.serving.cli.tables import plain_table

    kind = plan.gpu.upper()
    yield escape(
        f"{plan.model} on {plan.ranks} {kind}{'s' if plan.ranks > 1 else ''}"
        + (", twice" if plan.gangs > 1 else "")
        + f": {plan.cfg_groups} x {plan.sequence_ranks} (guidance groups x sequence ranks)"
        + (f", experts over {plan.expert_ranks}" if plan.expert_ranks > 1 else "")
        + ("" if plan.quantize == "none" else f", weights in {plan.quantize}")
    )
    yield f"a step: {plan.sequences} x {plan.tokens:,} tokens, {plan.width}x{plan.height}, {plan.frames} frames\n"

    table = plain_table("memory of a rank", "GiB")
    for name, words in MEMORY.items():
        table.add_row(words, f"{getattr(plan.memory, name) / GIB:.1f}")
    table.add_row(f"total, of {plan.memory.available / GIB:.1f}", f"{plan.memory.total / GIB:.1f}")
    yield table
    yield ""

    if plan.time.traffic:
        table = plain_table("on the wire, of a rank and a step, each way", "link", "GiB")
        for traffic in plan.time.traffic:
            table.add_row(traffic.what, traffic.link, f"{traffic.bytes / GIB:.3f}")
        yield table
        yield ""

    if decodes:
        device = "GiB of a GPU" if plan.is_gpu else "GiB"
        table = plain_table(f"decoding a clip in {decodes[0].dtype}", device, "of the host", "moved a clip", "")
        for way in decodes:
            numbers = (f"{size / GIB:.1f}" for size in (way.device_bytes, way.host_bytes, way.moved_bytes))
            table.add_row(_way(way), *numbers, "chosen" if way.chosen else "" if way.fits else "does not fit")
        yield table
        yield ""

    table = plain_table(f"predicted step ({plan.origin})", "seconds", "share")
    for name, seconds in plan.time.parts().items():
        table.add_row(KINDS[name], f"{seconds:.4f}", f"{seconds / plan.time.total:.1%}")
    table.add_row("total", f"{plan.time.total:.4f}", "")
    yield table
    yield ""

    for reason in plan.why:
        yield escape(f"- {reason}")


def _way(way: ClipDecode) -> str:
    if way.tiles == 1:
        return "whole frames"
    where = "on the device" if way.caches == "device" else "in host memory"
    return f"{way.tiles} tiles of {way.tile_width}x{way.tile_height}, their caches {where}"
