"""Commands about jobs of a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.connection import Connection, connecting
from serving.cli.options import LabelOption, NameArgument, labels_of, stderr, stdout


@connecting()
def jobs(
    connection: Connection,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest first.")] = 50,
    filter: Annotated[
        str, typer.Option(metavar="TEXT", help="Such as 'state=succeeded AND labels.project=x AND task=edit_video'.")
    ] = "",
) -> None:
    """List jobs."""
    from serving.cli.remote import list_jobs
    from serving.cli.tables import jobs_table

    stdout().print(jobs_table(list_jobs(connection, limit, filter)))


@connecting()
def watch(connection: Connection, name: NameArgument) -> None:
    """Follow a job until it is done."""
    from serving.cli.progress import ProgressView
    from serving.cli.remote import watch_job

    with ProgressView(stderr()) as view:
        line = watch_job(name, connection, view)
    print(line)


@connecting()
def cancel(connection: Connection, name: NameArgument) -> None:
    """Cancel a job."""
    from serving.cli.remote import cancel_job

    print(cancel_job(name, connection))


@connecting()
def download(
    connection: Connection,
    name: NameArgument,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to save the video or picture.")] = None,
    latents_out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to save the latents.")] = None,
) -> None:
    """Fetch the files of a finished job."""
    from serving.cli.remote import download_job

    print(download_job(name, out, latents_out, connection))


@connecting()
def extend(
    connection: Connection,
    name: NameArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What happens next; else as before.")] = "",
    duration: Annotated[float | None, typer.Option(help="Seconds to add.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames to add, instead of --duration.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None,
    negative: Annotated[
        str | None, typer.Option(metavar="TEXT", help='What not to show; else as before, "" for nothing.')
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same clip; -1: a random one.")] = None,
    label: LabelOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Follow the job and save its video; else print its name.")
    ] = None,
) -> None:
    """Go on where a finished video ends: a new job, whose clip begins with the last frames of the other one."""
    from serving.cli.progress import ProgressView
    from serving.cli.remote import extend_job

    fields = {
        "duration_seconds": duration,
        "frames": frames,
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": negative,
        "seed": seed,
        "labels": labels_of(label),
    }
    with ProgressView(stderr()) as view:
        line = extend_job(name, prompt, fields, out, connection, view)
    print(line)


@connecting()
def events(connection: Connection, name: NameArgument) -> None:
    """List every change of state that a job went through."""
    from serving.api.names import OPERATIONS, full_name
    from serving.cli.connection import connect
    from serving.cli.tables import events_table

    with connect(connection) as client:
        stdout().print(events_table(client.events(full_name(OPERATIONS, name))))


def register(app: typer.Typer) -> None:
    for command in (jobs, watch, cancel, download, extend, events):
        app.command()(command)
