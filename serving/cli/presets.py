"""`zoetrope models --presets` and `zoetrope upcycle`."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from model.family import Preset
from model.presets import all_presets
from model.sizes import RATIOS, size_of
from model.tasks import MAX_DURATION_SECONDS
from serving.cli.errors import bad_input
from serving.cli.tables import plain_table

GIB = 2**30


def presets_table(size: str, ratio: str, duration: float, ranks: int) -> tuple[Table, str]:
    """Every preset with what a clip costs on it, and a line that says how to read the columns.

    Raises:
        CliError: a size, ratio or duration that no clip can have.
    """
    width, height = clip_size(size, ratio)
    if not (math.isfinite(duration) and 0 < duration <= MAX_DURATION_SECONDS):
        raise bad_input("duration", f"{duration} is not above 0 and at most {MAX_DURATION_SECONDS:g}")
    table = plain_table(
        "preset", "parameters", "active", "autoencoder", "frames", "tokens", "PFLOP/step", "weights/rank", "activations"
    )
    for preset in all_presets().values():
        table.add_row(*_row(preset, width, height, duration, ranks))
    note = (
        f"{width}x{height}, {duration:g} s at each preset's frame rate, {ranks} GPU{'s' if ranks > 1 else ''}. A step "
        "is all guidance branches. Weights in bfloat16, exact; activations in GiB a rank, estimated from shapes."
    )
    return table, note


def run_upcycle(source: Path, destination: Path, preset: str, seed: int, console: Console) -> str:
    """Derive a checkpoint with a progress bar; the line to print when done."""
    from model.upcycle import upcycle

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
                if not console.is_terminal:
                    console.print(f"{stage} {total / GIB:.1f} GiB")
            bar.update(tasks[stage], completed=done)

        manifest = upcycle(source, destination, preset, seed=seed, on_progress=show)
    total, active = (manifest["parameters"][key] / 1e9 for key in ("total", "active"))
    return f"{destination}: {total:.2f} B parameters, {active:.2f} B active"


def _row(preset: Preset, width: int, height: int, duration: float, ranks: int) -> tuple[str, ...]:
    from model.costs import clip_cost, count_parameters

    count = count_parameters(preset.config)
    times = f"{preset.transformers} x " if preset.transformers > 1 else ""
    head = (preset.name, times + _count(count.total), _count(count.active), preset.vae.name)
    try:
        cost = clip_cost(preset, width, height, duration, ranks)
    except ValueError as error:
        return (*head, "", "", "", str(error), "")
    return (
        *head,
        str(cost.frames),
        f"{cost.tokens:,}",
        f"{cost.step_flops / 1e15:.3g}",
        f"{cost.memory.weights / GIB:.1f} GiB",
        f"{cost.memory.activations / GIB:.1f} GiB",
    )


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e8 else f"{parameters / 1e6:.2f} M"


def clip_size(size: str, ratio: str) -> tuple[int, int]:
    """Read ``--size`` and ``--ratio``.

    Raises:
        CliError: no clip can have them.
    """
    if ratio not in RATIOS:
        raise bad_input("ratio", f"{ratio!r} is not one of {', '.join(RATIOS)}")
    try:
        return size_of(size, ratio)
    except ValueError as error:
        raise bad_input("size", str(error)) from None
