"""`zoetrope generate`."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from model.sizes import RATIOS
from serving.cli.connection import Connection, connecting
from serving.cli.options import FamilyOption, LabelOption, ModelOption, labels_of, stderr


@connecting(optional=True)
def generate(
    connection: Connection,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to show, or what to change.")] = "",
    model: ModelOption = None,
    family: FamilyOption = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="480p, 720p, 1080p or WIDTHxHEIGHT; else the model's.")
    ] = None,
    ratio: Annotated[
        str | None,
        typer.Option(metavar="RATIO", help=f"{', '.join(RATIOS)}; else the picture's."),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(metavar="FIT", help="Pictures of another ratio: cover the frame, the default, or contain."),
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Length in seconds.")] = None,
    frames: Annotated[int | None, typer.Option(help="Length in frames, instead of --duration.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames per second.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None,
    guidance_low: Annotated[
        float | None, typer.Option(help="Guidance of the low-noise expert, where a model has two.")
    ] = None,
    flow_shift: Annotated[
        float | None, typer.Option(help="Shift of the noise levels; `zoetrope models` tells the model's.")
    ] = None,
    negative: Annotated[
        str | None, typer.Option(metavar="TEXT", help='What not to show; else the model\'s default, "" for none.')
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same clip; -1: a random one.")] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="FILE.mp4, FILE.mkv without loss; a picture: FILE.png, .webp or .jpg."),
    ] = Path("out.mp4"),
    latents_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the latents too, as FILE.safetensors.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The first frame. A service also takes what `zoetrope media` lists."),
    ] = None,
    last_image: Annotated[Path | None, typer.Option(metavar="FILE", help="The last frame.")] = None,
    clip: Annotated[Path | None, typer.Option(metavar="FILE", help="A clip to go on from.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="End with the first frame.")] = False,
    panel: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Nine pictures of a storyboard, or one sheet of them; repeatable."),
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A picture or clip of what to show; repeatable."),
    ] = None,
    video: Annotated[Path | None, typer.Option(metavar="FILE", help="A clip to edit; PROMPT says how.")] = None,
    keep_audio: Annotated[bool, typer.Option("--keep-audio", help="Keep the sound of --video.")] = False,
    audio: Annotated[Path | None, typer.Option(metavar="FILE", help="A sound track to put beside the frames.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Run the model in this process.")] = False,
    priority: Annotated[int | None, typer.Option(help="Among your queued jobs, 0 to 9, higher first.")] = None,
    label: LabelOption = None,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Fail when it is not done by then, from now.")
    ] = None,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Whom the service tells of the job.")] = None,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Wait so long for a place in a full queue or quota.")
    ] = 0.0,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's name and leave it to the service.")] = False,
) -> None:
    """Make a video, or a picture, from a prompt, and from pictures and clips where a task takes them.

    Without a service a private one is started for it.
    """
    from serving.cli.errors import bad_input
    from serving.cli.order import JobOptions, Order, TaskMedia
    from serving.cli.progress import ProgressView

    if local and connection.server is not None:
        raise bad_input("local", "cannot be used together with --server")
    order = Order(
        prompt=prompt,
        out=out,
        latents_out=latents_out,
        model=model,
        family=family,
        size=size,
        ratio=ratio,
        fit=fit,
        duration=duration,
        frames=frames,
        fps=fps,
        steps=steps,
        guidance=guidance,
        guidance_low=guidance_low,
        flow_shift=flow_shift,
        negative=negative,
        seed=seed,
        audio=audio,
        media=TaskMedia(
            image=image,
            clip=clip,
            last_image=last_image,
            panels=tuple(panel or ()),
            references=tuple(reference or ()),
            video=video,
            loop=loop,
            keep_audio=keep_audio,
        ),
        options=JobOptions(
            labels=labels_of(label),
            priority=priority,
            deadline_seconds=deadline,
            webhook=webhook,
            patience=patience,
            detach=detach,
        ),
    )
    if connection.server is not None and family is not None:
        raise bad_input("family", "is of a model's folder here, a service at --server knows its own")
    server = None if local else connection.server or os.environ.get("ZOETROPE_SERVER")
    if not server and (given := order.options.given()):
        raise bad_input(given[0], "needs a service, give --server")
    with ProgressView(stderr()) as view:
        if local:
            from serving.cli.local import generate_locally

            line = generate_locally(order, view)
        elif server:
            from serving.cli.remote import generate_remotely

            line = generate_remotely(order, replace(connection, server=server), view)
        else:
            from serving.cli.remote import generate_privately

            with tempfile.TemporaryDirectory(prefix="zoetrope-private-") as folder:
                line = generate_privately(order, Path(folder), view)
    print(line)


def register(app: typer.Typer) -> None:
    app.command()(generate)
