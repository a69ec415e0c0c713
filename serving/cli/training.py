"""`zoetrope prepare`."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.presets import open_model
from model.sizes import size_name
from serving.cli.errors import bad_input


def run_prepare(
    source: Path, out: Path, model: str, family: str, size: str, frames: int, fps: float | None, console: Console
) -> str:
    """Encode a folder of clips with a progress bar; the line to print when done.

    Raises:
        CliError, InvalidRequest, ModelError: see `serving.prepare.prepare`.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size_name(size), re.ASCII)
    if match is None:
        raise bad_input("size", f"{size!r} is not WIDTHxHEIGHT")
    if fps is not None and not 0 < fps <= 240:
        raise bad_input("fps", f"{fps:g} is not above 0 and at most 240")
    card = open_model(model, family)
    for warning in card.warnings:
        console.print(f"warning: {warning}", markup=False)
    console.print(f"loading {card.name}")

    from serving.prepare import prepare

    columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("encoding", total=None)
        count = prepare(
            source,
            out,
            card,
            width=int(match[1]),
            height=int(match[2]),
            frames=frames,
            fps=fps,
            on_clip=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return f"{out}: {count} clip{'s' if count != 1 else ''}"
