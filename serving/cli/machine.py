"""Commands that need no service: models, checkpoints, training data, and what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.connection import Connection, connect, connecting
from serving.cli.options import (
    DataDirOption,
    FamilyOption,
    GrpcOption,
    HttpOption,
    ModelOption,
    settings_of,
    stderr,
    stdout,
)


@connecting(optional=True)
def models(
    connection: Connection,
    presets: Annotated[bool, typer.Option("--presets", help="All presets, and what a clip costs on each.")] = False,
    size: Annotated[str | None, typer.Option(metavar="SIZE", help="Of that clip; 720p.")] = None,
    ratio: Annotated[str | None, typer.Option(metavar="RATIO", help="Of that clip; 16:9.")] = None,
    duration: Annotated[float | None, typer.Option(help="Of that clip, in seconds; 5.")] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="GPUs of the engine that makes it; 8.")] = None,
) -> None:
    """List models and their limits: those of a service, or the presets."""
    import os
    from dataclasses import replace

    from serving.cli.tables import models_table

    if presets:
        from serving.cli.presets import presets_table

        clip = (size or "720p", ratio or "16:9", 5.0 if duration is None else duration, ranks or 8)
        stdout().print(*presets_table(*clip), sep="\n")
        return
    for field, value in (("size", size), ("ratio", ratio), ("duration", duration), ("ranks", ranks)):
        if value is not None:
            from serving.cli.errors import bad_input

            raise bad_input(field, "can only be given together with --presets")
    server = connection.server or os.environ.get("ZOETROPE_SERVER")
    if not server:
        from model.presets import PRESETS, find_model

        stdout().print(models_table([find_model(name) for name in PRESETS]))
    else:
        with connect(replace(connection, server=server)) as client:
            stdout().print(models_table(client.models()))


def upcycle(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A dense checkpoint's folder, in diffusers' layout.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make.")],
    preset: Annotated[str, typer.Option(metavar="NAME", help="wan2.7-27b or wan2.7-27b-wide.")] = "wan2.7-27b",
    seed: Annotated[int, typer.Option(min=0, help="Of the routers' random weights.")] = 0,
) -> None:
    """Derive a checkpoint with token-routed experts that computes what its dense source computes."""
    from serving.cli.presets import run_upcycle

    print(run_upcycle(source, destination, preset, seed, stderr()))


def prepare(
    source: Annotated[Path, typer.Argument(metavar="CLIPS", help="A folder of NAME.mp4, each with a NAME.txt.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to fill.")],
    model: Annotated[str, typer.Option(metavar="DIR", help="The checkpoint that is to be trained.")],
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="What clips are scaled and cut to.")],
    family: FamilyOption = None,
    frames: Annotated[int, typer.Option(min=1, help="How many frames of each clip at most.")] = 81,
    fps: Annotated[float | None, typer.Option(help="Frames per second, else the checkpoint's.")] = None,
) -> None:
    """Encode clips and captions for training, see `python -m model.training --help`."""
    from serving.cli.training import run_prepare

    print(run_prepare(source, destination, model, family or "", size, frames, fps, stderr()))


def doctor(
    model: ModelOption = None,
    family: FamilyOption = None,
    grpc: GrpcOption = None,
    http: HttpOption = None,
    data_dir: DataDirOption = None,
) -> int:
    """Check what a service needs of this machine and say what to do. Exit code 1 when it could not run."""
    from serving.cli.doctor import Status, run_checks
    from serving.cli.tables import checks_table

    settings = settings_of(model=model, family=family, grpc=grpc, http=http, data_dir=data_dir)
    checks = list(run_checks(settings))
    stdout().print(checks_table(checks))
    return int(any(check.status is Status.FAIL for check in checks))


def register(app: typer.Typer) -> None:
    for command in (models, upcycle, prepare, doctor):
        app.command()(command)
