"""`zoetrope plan`."""

from __future__ import annotations

from collections.abc import Iterator
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
    from zoetrope.model.families.family import Preset
    from zoetrope.model.request.tasks import ModelCard
    from zoetrope.serving.cli.plan_price import PlannedJob

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

GPUS = 8  # of a node


def plan(
    load: ModelLoadOptions,
    argument: ModelArgument = None,
    model: ModelOption = None,
    gpus: Annotated[int, option("N", "GPUs of one engine.")] = GPUS,
    size: Annotated[str, option("SIZE", "480p, 720p, 1080p or WIDTHxHEIGHT.")] = "720p",
    ratio: Annotated[str, option("RATIO", f"Aspect ratio: {', '.join(RATIOS)}.")] = RATIOS[0],
    duration: Annotated[float, option("SECONDS", "Length of the clip in seconds.")] = 5.0,
    gpu: Annotated[
        str | None,
        option(
            "KIND",
            "Kind of GPU: h100, h200, a100, l40s, rtx4090 or cpu.",
            "h100; with --gpu-memory the smallest that has as much",
        ),
    ] = None,
    gpu_memory: Annotated[
        float | None,
        option(
            "GIB",
            "Show instead what one GPU with that memory can make: which sizes, how fast, and what of the model is then"
            " streamed from the host.",
            "none",
        ),
    ] = None,
    nvlink: Annotated[int, option("N", "GPUs that NVLink connects.")] = GPUS,
    steps: Annotated[int | None, option("N", "Denoising steps of the job that is priced.", "the model's")] = None,
    quality: Annotated[
        str, option("LEVEL", "Steps of it to compute in full: exact (all), balanced (about half) or fast.")
    ] = "exact",
    json: JsonOption = False,
) -> None:
    """Show how an engine would share a model's work.

    Memory, bytes on the wire, time of a step, and why; how a clip is decoded, and what a job costs.
    """
    from zoetrope.serving.cli.errors import bad_input
    from zoetrope.serving.cli.listing import plain, print_json

    named = one_model(argument, model) or DEFAULT_MODEL
    if gpu_memory is not None:
        of_engines = {"gpus": gpus != GPUS, "nvlink": nvlink != GPUS, "steps": steps is not None}
        _check_alone({**of_engines, "quality": quality != "exact"})
        _small(named, gpu, gpu_memory, size, ratio, duration, load.resolved(), json)
        return
    if "offload" in load.given():
        raise bad_input("offload", "needs --gpu-memory: the plan of an engine has all weights on its GPUs")
    made, decodes, wanted = make_plan(named, gpus, size, ratio, duration, gpu or "h100", nvlink, load.resolved())
    from zoetrope.serving.cli.plan_price import planned_job

    job = planned_job(wanted, made, duration, steps, quality)
    if json:
        print_json({**plain(made), "decode": decodes, "job": plain(job)})
    else:
        stdout().print(*_rendered(made, decodes), *_priced(job), sep="\n")


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
) -> tuple[GangPlan, list[ClipDecode], Preset | ModelCard]:
    """Return the plan of an engine, the ways to decode its clips, best first, and the model.

    Raises:
        CliError: bad input, or no plan works; the message says which would.
        ModelError: there is no such model, or an adapter does not fit it.
    """
    from zoetrope.serving.cli.errors import bad_input
    from zoetrope.serving.cli.models import check_duration, clip_size

    check_duration(duration)
    width, height = clip_size(size, ratio)

    from zoetrope.cluster.planning.clip_decode import clip_decodes
    from zoetrope.cluster.planning.gang_plan import PlanError, plan_gang
    from zoetrope.model.codecs.decode_plan import Decoding

    wanted, load = _wanted(model, load)
    try:
        decoding = Decoding.from_environment()
    except ValueError as error:
        raise bad_input("decoding", str(error)) from None
    try:
        made = plan_gang(wanted, gpus, gpu, width, height, duration, nvlink_domain=nvlink, quantize=load.quantize)
    except PlanError as error:
        raise bad_input(error.field, str(error)) from None
    return made, clip_decodes(wanted, made, decoding), wanted


def _wanted(model: str, load: LoadOptions) -> tuple[Preset | ModelCard, LoadOptions]:
    """Return a preset by its name, or the card of a folder, and how it is loaded; show its warnings."""
    from zoetrope.model.adapters.files.card import check_adapters
    from zoetrope.model.catalog.card_files import find_card_file
    from zoetrope.model.catalog.presets import open_model
    from zoetrope.model.catalog.profiles import preset_with
    from zoetrope.model.catalog.single_files import is_weight_file
    from zoetrope.model.families import BUNDLED, PRESETS
    from zoetrope.model.inspection.files import typed_path
    from zoetrope.model.request.tasks import ModelCard
    from zoetrope.serving.cli.errors import bad_input

    known = model in (*PRESETS, *BUNDLED) or find_card_file(model) is not None
    place = typed_path(model, "model")
    if not known and not place.exists() and not is_weight_file(place) and "/" not in model:
        raise bad_input("model", f"{model!r} is neither a preset ({', '.join((*PRESETS, *BUNDLED))}) nor a directory")
    wanted = preset_with(PRESETS[model], load.profile) if model in PRESETS else open_model(model, load)
    if isinstance(wanted, ModelCard):
        warnings = wanted.warnings
    else:
        warnings = check_adapters(load.lora, wanted.config, wanted.transformers).warnings
    for warning in warnings:
        stderr().print(f"warning: {warning}", markup=False)
    return wanted, wanted.load if isinstance(wanted, ModelCard) else load


def _check_alone(given: dict[str, bool]) -> None:
    """Raise CliError for an option of an engine's plan that is given beside --gpu-memory, which would ignore it."""
    from zoetrope.serving.cli.errors import bad_input

    for name, named in given.items():
        if named:
            raise bad_input(name, "cannot be given together with --gpu-memory, which is about one GPU")


def _small(
    model: str, kind: str | None, memory: float, size: str, ratio: str, duration: float, load: LoadOptions, json: bool
) -> None:
    """Show what one GPU of that memory can make.

    Raises:
        CliError: bad input.
    """
    from zoetrope.model.families.config import TEXT_TOKENS
    from zoetrope.model.families.quantization import why_exact
    from zoetrope.model.request.tasks import ModelCard
    from zoetrope.serving.cli.errors import bad_input
    from zoetrope.serving.cli.listing import plain, print_json
    from zoetrope.serving.cli.models import check_duration, clip_size
    from zoetrope.serving.cli.small_gpu import gpu_of, rendered, sizes_on

    check_duration(duration)
    clip_size(size, ratio)
    gear = gpu_of(kind, memory)

    from zoetrope.cluster.planning.gang_plan import preset_of

    wanted, load = _wanted(model, load)
    text_tokens = wanted.max_text_tokens if isinstance(wanted, ModelCard) else TEXT_TOKENS
    preset = preset_of(wanted) if isinstance(wanted, ModelCard) else wanted
    if load.quantize != "none" and (problem := why_exact(preset.config)) is not None:
        raise bad_input("quantize", f"{load.quantize} is not possible for {preset.name}: {problem}")
    rows = sizes_on(preset, gear, load, ratio, duration, text_tokens, size)
    if json:
        print_json({"model": preset.name, "gpu": gear.name, "sizes": [plain(row) for row in rows]})
    else:
        stdout().print(*rendered(preset.name, gear, load, rows, preset.sampling.steps), sep="\n")


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


def _priced(job: PlannedJob) -> Iterator[RenderableType]:
    runs = f"{job.steps} steps" if job.computed_steps == job.steps else f"{job.computed_steps} of {job.steps} steps"
    runs += f", {job.segments} segments" if job.segments > 1 else ""
    yield ""
    yield f"a job of {runs}: {job.gpu_seconds:,.4g} GPU-seconds, {job.per_video_second:,.4g} for a second of video"
    yield (
        f"({job.conditioning:.3g} conditioning, {job.denoising:,.4g} denoising, {job.decoding:.3g} decoding; predicted "
        "for an engine of its own)"
    )


def _way(way: ClipDecode) -> str:
    if way.tiles == 1:
        return "whole frames"
    where = "on the device" if way.caches == "device" else "in host memory"
    return f"{way.tiles} tiles of {way.tile_width}x{way.tile_height}, their caches {where}"
