"""`zoetrope plan`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from model.sizes import RATIOS
from serving.cli.options import FamilyOption, stderr

if TYPE_CHECKING:
    from cluster.plan import GangPlan

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
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="A preset or a checkpoint folder.")] = "nano",
    family: FamilyOption = None,
    gpus: Annotated[int, typer.Option(help="Of one engine.")] = 8,
    size: Annotated[str, typer.Option(metavar="SIZE", help="480p, 720p, 1080p or WIDTHxHEIGHT.")] = "720p",
    ratio: Annotated[str, typer.Option(metavar="RATIO", help=f"{', '.join(RATIOS)}.")] = "16:9",
    duration: Annotated[float, typer.Option(help="Length of the clip in seconds.")] = 5.0,
    gpu: Annotated[str, typer.Option(metavar="KIND", help="h100, h200 or cpu.")] = "h100",
    nvlink: Annotated[int, typer.Option(help="GPUs that NVLink joins.")] = 8,
) -> None:
    """Show how an engine would share a model's work: memory, bytes on the wire, time of a step, and why."""
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=200)
    console.print(*plan_tables(model, gpus, size, ratio, duration, gpu, nvlink, family or ""), sep="\n")


def plan_tables(
    model: str, gpus: int, size: str, ratio: str, duration: float, gpu: str, nvlink: int, family: str = ""
) -> list[RenderableType]:
    """What is printed.

    Raises:
        CliError: bad input, or nothing that works; the message says what would. ModelError: no such model.
    """
    from model.tasks import MAX_DURATION_SECONDS, ModelCard
    from serving.cli.errors import bad_input
    from serving.cli.presets import clip_size

    if not (math.isfinite(duration) and 0 < duration <= MAX_DURATION_SECONDS):
        raise bad_input("duration", f"{duration} is not above 0 and at most {MAX_DURATION_SECONDS:g}")
    width, height = clip_size(size, ratio)

    from cluster.plan import PlanError, plan_gang
    from model.family import FAMILY
    from model.presets import PRESETS, open_model

    if model not in (*FAMILY, *PRESETS) and not Path(model).is_dir() and "/" not in model:
        raise bad_input("model", f"{model!r} is neither a preset ({', '.join((*FAMILY, *PRESETS))}) nor a directory")
    wanted = FAMILY[model] if model in FAMILY else open_model(model, family)
    for warning in wanted.warnings if isinstance(wanted, ModelCard) else ():
        stderr().print(f"warning: {warning}", markup=False)
    try:
        made = plan_gang(wanted, gpus, gpu, width, height, duration, nvlink_domain=nvlink)
    except PlanError as error:
        raise bad_input(error.field, str(error)) from None
    return list(_rendered(made))


def _rendered(plan: GangPlan) -> Iterator[RenderableType]:
    from serving.cli.tables import plain_table

    kind = plan.gpu.upper()
    yield escape(
        f"{plan.model} on {plan.ranks} {kind}{'s' if plan.ranks > 1 else ''}"
        + (", twice" if plan.gangs > 1 else "")
        + f": {plan.cfg_groups} x {plan.sequence_ranks} (guidance groups x sequence ranks)"
        + (f", experts over {plan.expert_ranks}" if plan.expert_ranks > 1 else "")
    )
    yield f"a step: {plan.sequences} x {plan.tokens:,} tokens, {plan.width}x{plan.height}, {plan.frames} frames\n"

    table = plain_table("memory of a rank", "GiB")
    for name, words in MEMORY.items():
        table.add_row(words, f"{getattr(plan.memory, name) / GIB:.1f}")
    table.add_row(f"together, of {plan.memory.available / GIB:.1f}", f"{plan.memory.total / GIB:.1f}")
    yield table
    yield ""

    if plan.time.traffic:
        table = plain_table("on the wire, of a rank and a step, each way", "link", "GiB")
        for traffic in plan.time.traffic:
            table.add_row(traffic.what, traffic.link, f"{traffic.bytes / GIB:.3f}")
        yield table
        yield ""

    table = plain_table(f"predicted step ({plan.origin})", "seconds", "share")
    for name, seconds in plan.time.parts().items():
        table.add_row(KINDS[name], f"{seconds:.4f}", f"{seconds / plan.time.total:.1%}")
    table.add_row("together", f"{plan.time.total:.4f}", "")
    yield table
    yield ""

    for reason in plan.why:
        yield escape(f"- {reason}")
