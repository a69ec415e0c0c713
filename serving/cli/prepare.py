"""`zoetrope prepare`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from zoetrope.serving.cli.console import stderr
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.options import FamilyOption, QuietOption, add_commands, option
from zoetrope.serving.cli.progress import count_bar


def prepare(
    source: Annotated[
        Path, typer.Argument(metavar="CLIPS", help="Folder of clips NAME.mp4, each with its caption in NAME.txt.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to fill.")],
    model: Annotated[str, option("DIR", "Checkpoint to train.")],
    size: Annotated[str, option("WIDTHxHEIGHT", "Size to which clips are scaled and cropped.")],
    family: FamilyOption = None,
    frames: Annotated[int, option("N", "Use at most this many frames of each clip.", min=1)] = 81,
    fps: Annotated[float | None, option("N", "Frames per second at which clips are read.", "the checkpoint's")] = None,
    quiet: QuietOption = False,
) -> None:
    """Encode clips and captions for training.

    What to do with them: `python -m zoetrope.model.training --help`.
    """
    from zoetrope.model.catalog.presets import open_model
    from zoetrope.model.request.load_options import LoadOptions
    from zoetrope.model.request.sizes import size_name

    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size_name(size), re.ASCII)
    if match is None:
        raise bad_input("size", f"{size!r} is not WIDTHxHEIGHT")
    if fps is not None and not 0 < fps <= 240:
        raise bad_input("fps", f"{fps:g} must be above 0 and at most 240")
    card = open_model(model, LoadOptions(family=family or ""))
    console = stderr()
    for warning in card.warnings:
        console.print(f"warning: {warning}", markup=False)
    if not quiet:
        console.print(f"loading {card.name}")

    from zoetrope.serving.cli.encode_clips import encode_clips

    with count_bar(console, "encoding", MofNCompleteColumn(), quiet=quiet) as bar:
        task = bar.add_task("encoding", total=None)
        count = encode_clips(
            source,
            destination,
            card,
            width=int(match[1]),
            height=int(match[2]),
            frames=frames,
            fps=fps,
            on_clip=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"{destination}: {count} clip{'s' if count != 1 else ''}")


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, prepare)
