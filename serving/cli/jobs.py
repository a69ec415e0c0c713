"""Commands about jobs of a running service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoetrope.serving.api.names import OPERATIONS, full_name
from zoetrope.serving.cli.connection import Connection, connect, newest
from zoetrope.serving.cli.console import stderr
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.options import (
    JsonOption,
    LabelOption,
    LimitOption,
    ListingOptions,
    NameArgument,
    QuietOption,
    SeedOption,
    add_commands,
    labels_of,
    option,
)
from zoetrope.serving.cli.progress import ProgressView

if TYPE_CHECKING:
    from zoetrope.serving.client import OperationStatus, VideoClient, VideoInfo


def jobs(
    connection: Connection,
    output: ListingOptions,
    limit: LimitOption = 50,
    filter: Annotated[
        str,
        option("TEXT", "Show only some, such as 'state=succeeded AND labels.project=x AND task=edit_video'.", "all"),
    ] = "",
) -> None:
    """List jobs, newest first: those of the tenant of the API key."""
    from zoetrope.serving.cli.listing import show
    from zoetrope.serving.cli.tables import jobs_listing

    def page(size: int, token: str) -> tuple[tuple[OperationStatus, ...], str]:
        found = client.list(size, token, filter)
        return found.operations, found.next_page_token

    with connect(connection) as client:
        show(jobs_listing(newest(limit, page)), output)


def watch(connection: Connection, name: NameArgument, quiet: QuietOption = False) -> None:
    """Follow a job until it ends."""
    from zoetrope.serving.cli.remote import follow

    with ProgressView(stderr(), quiet=quiet) as view, connect(connection) as client:
        video = follow(client, full_name(OPERATIONS, name), view)
    size = f"{video.width}x{video.height}"
    print(f"{short_name(video.name)} succeeded size={size} frames={video.frames} fps={video.fps}")


def cancel(connection: Connection, name: NameArgument) -> None:
    """Cancel a job."""
    with connect(connection) as client:
        client.cancel(full_name(OPERATIONS, name))
        status = client.get(full_name(OPERATIONS, name))
    if status.done and status.state != "cancelled":
        print(f"{short_name(name)} had already ended: {status.state}")
    else:
        print(f"{short_name(name)} {'cancelled' if status.done else 'is being cancelled'}")


def download(
    connection: Connection,
    name: NameArgument,
    out: Annotated[Path | None, option("FILE", "File for the video or picture.", "not saved")] = None,
    latents_out: Annotated[Path | None, option("FILE", "File for the latents, FILE.safetensors.", "not saved")] = None,
) -> None:
    """Download the files of a finished job."""
    from zoetrope.serving.cli.generate_request import check_latents_name, prepare_file

    if out is None and latents_out is None:
        raise bad_input("out", "name a file with --out or --latents-out")
    if latents_out is not None:
        check_latents_name(latents_out)
    with connect(connection) as client:
        video = _finished(client, name)
        saved = []
        if out is not None:
            _check_suffix(out, video)
            prepare_file(out, "out")
            client.download(full_name(OPERATIONS, name), out)
            saved.append(str(out))
        if latents_out is not None:
            prepare_file(latents_out, "latents-out")
            client.download(full_name(OPERATIONS, name), latents_out, artifact="latents")
            saved.append(f"latents={latents_out}")
    print(f"saved {' '.join(saved)}")


def extend(
    connection: Connection,
    name: NameArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What happens next.", show_default="as before")] = "",
    duration: Annotated[float | None, option("SECONDS", "Seconds to add.", "as before")] = None,
    frames: Annotated[int | None, option("N", "Frames to add, instead of --duration.", "as before")] = None,
    steps: Annotated[int | None, option("N", "Denoising steps.", "as before")] = None,
    guidance: Annotated[
        float | None, option("SCALE", "Guidance scale, 0-30; higher follows the prompt more closely.", "as before")
    ] = None,
    negative: Annotated[str | None, option("TEXT", 'What to avoid; "" for nothing.', "as before")] = None,
    seed: SeedOption = None,
    label: LabelOption = (),
    out: Annotated[
        Path | None, option("FILE", "Follow the job and save its video here.", "print the job's name")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Continue a finished video in a new job.

    The new clip begins with the last frames of the first one.
    """
    from zoetrope.serving.cli.generate_request import prepare_file
    from zoetrope.serving.cli.remote import following

    if out is not None:
        prepare_file(out, "out")
    with ProgressView(stderr(), quiet=quiet) as view, connect(connection) as client:
        if out is not None:
            _check_suffix(out, _finished(client, name))  # the new video is of the same format
        made = client.extend(
            full_name(OPERATIONS, name),
            prompt,
            duration_seconds=duration,
            frames=frames,
            steps=steps,
            guidance=guidance,
            negative_prompt=negative,
            seed=seed,
            labels=labels_of(label),
        )
        if out is not None:
            with following(client, made, view):
                client.download(made, out)
    print(short_name(made) if out is None else f"saved {out}")


def events(connection: Connection, name: NameArgument, json: JsonOption = False) -> None:
    """List every change of a job's state."""
    from zoetrope.serving.cli.listing import show
    from zoetrope.serving.cli.tables import events_listing

    with connect(connection) as client:
        show(events_listing(client.events(full_name(OPERATIONS, name))), ListingOptions(json))


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, jobs, watch, cancel, download, extend, events)


def short_name(name: str) -> str:
    return name.rpartition("/")[2]


def _finished(client: VideoClient, name: str) -> VideoInfo:
    status = client.get(full_name(OPERATIONS, name))
    if status.video is None:
        raise bad_input("name", f"{short_name(name)} has no file; its state is {status.state}")
    return status.video


def _check_suffix(out: Path, video: VideoInfo) -> None:
    from zoetrope.serving.api.formats import MIME_TYPES, container_of

    container = next((name for name, mime_type in MIME_TYPES.items() if mime_type == video.mime_type), None)
    if container is not None and container_of(out) != container:
        raise bad_input("out", f"{str(out)!r} does not end in .{container}, the file is {video.mime_type}")
