"""`zoetrope upcycle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn, TaskID

from zoetrope.serving.cli.console import stderr
from zoetrope.serving.cli.options import QuietOption, add_commands, option
from zoetrope.serving.cli.progress import count_bar

GIB = 2**30


def upcycle(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of a dense checkpoint in diffusers' layout.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to create.")],
    preset: Annotated[str, option("NAME", "Preset to derive: wan2.7-27b or wan2.7-27b-wide.")] = "wan2.7-27b",
    seed: Annotated[int, option("N", "Random seed of the routers' weights.", min=0)] = 0,
    quiet: QuietOption = False,
) -> None:
    """Derive a checkpoint with token-routed experts.

    It computes what its dense source computes.
    """
    from zoetrope.model.checkpoints.upcycle import upcycle as run

    console = stderr()
    with count_bar(console, "{task.description}", DownloadColumn(), quiet=quiet) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
                if not (quiet or console.is_terminal):
                    console.print(f"{stage} {total / GIB:.1f} GiB")
            bar.update(tasks[stage], completed=done)

        manifest = run(source, destination, preset, seed=seed, on_progress=show)
    total, active = (manifest["parameters"][key] / 1e9 for key in ("total", "active"))
    print(f"{destination}: {total:.2f} B parameters, {active:.2f} B active")


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, upcycle)
