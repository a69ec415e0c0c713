"""The commands and their options."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from serving.cli.plan import plan

if TYPE_CHECKING:
    from serving.settings import Settings

DEFAULT_SERVER = "127.0.0.1:50051"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelOption = Annotated[str | None, typer.Option(metavar="NAME_OR_DIR", help="A preset or a checkpoint folder.")]
ServerOption = Annotated[
    str, typer.Option(metavar="HOST:PORT", envvar="ZOETROPE_SERVER", help="The service's gRPC address.")
]
GrpcOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC address; port 0 picks a free one.")]
HttpOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="HTTP address; port 0 picks a free one.")]
DataDirOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Where jobs and files are kept.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The job, as `zoetrope jobs` lists it.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 2 for bad input, 130 when interrupted, else 1. Errors are one line on standard error.
    """
    try:
        code = app(args=arguments, prog_name="zoetrope", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        print(f"error: {_usage_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("ZOETROPE_DEBUG"):
            raise
        from serving.cli.errors import explain

        line, code = explain(error)
        print(f"error: {line}", file=sys.stderr)
        return code


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"zoetrope {_version()}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Zoetrope serves the Wan family of video models on your own GPUs."""


@app.command()
def serve(
    model: ModelOption = None,
    ranks: Annotated[int | None, typer.Option(help="GPUs of an engine.")] = None,
    engines: Annotated[int | None, typer.Option(help="Engines, each with the whole model.")] = None,
    grpc: GrpcOption = None,
    http: HttpOption = None,
    data_dir: DataDirOption = None,
    stop_when_stdin_ends: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
) -> int:
    """Start a service. Prints one line, `ready grpc=... http=...`, once a job would be served."""
    from serving.addresses import bind_problem, is_loopback
    from serving.cli.errors import bad_input

    settings = _settings(model=model, ranks=ranks, engines=engines, grpc=grpc, http=http, data_dir=data_dir)
    for field, address in (("grpc", settings.grpc), ("http", settings.http)):
        if problem := bind_problem(address, field):
            raise bad_input(field, problem)
        if not is_loopback(address, field):
            _stderr().print(f"warning: {field}: {address} can be reached from other machines and asks for no key yet")
    if stop_when_stdin_ends:
        from serving.cli.service import stop_with_stdin

        stop_with_stdin()
    from serving.app import serve as run

    return run(settings)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to show, or what to change.")] = "",
    model: ModelOption = None,
    size: Annotated[str | None, typer.Option(metavar="SIZE", help="480p, 720p, 1080p or WIDTHxHEIGHT.")] = None,
    ratio: Annotated[str | None, typer.Option(metavar="RATIO", help="16:9, 9:16, 1:1, 4:3 or 3:4.")] = None,
    duration: Annotated[float | None, typer.Option(help="Length in seconds.")] = None,
    frames: Annotated[int | None, typer.Option(help="Length in frames, instead of --duration.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames per second.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None,
    guidance_low: Annotated[
        float | None, typer.Option(help="Guidance of the low-noise expert, where a model has two.")
    ] = None,
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="What not to show.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same clip.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="FILE.mp4, or FILE.mkv without loss.")] = Path("out.mp4"),
    latents_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the latents too, as FILE.safetensors.")
    ] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="The first frame.")] = None,
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
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A running service, also from ZOETROPE_SERVER; else a private one."),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Run the model in this process.")] = False,
) -> None:
    """Make a video from a prompt, and from pictures and clips where a task takes them."""
    from serving.cli.errors import bad_input
    from serving.cli.order import Order, TaskMedia
    from serving.cli.progress import ProgressView

    if local and server is not None:
        raise bad_input("local", "cannot be used together with --server")
    order = Order(
        prompt=prompt,
        out=out,
        latents_out=latents_out,
        model=model,
        size=size,
        ratio=ratio,
        duration=duration,
        frames=frames,
        fps=fps,
        steps=steps,
        guidance=guidance,
        guidance_low=guidance_low,
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
    )
    address = None if local else server or os.environ.get("ZOETROPE_SERVER")
    with ProgressView(_stderr()) as view:
        if local:
            from serving.cli.local import generate_locally

            line = generate_locally(order, view)
        elif address:
            from serving.cli.remote import generate_remotely

            line = generate_remotely(order, address, view)
        else:
            from serving.cli.remote import generate_privately

            with tempfile.TemporaryDirectory(prefix="zoetrope-private-") as folder:
                line = generate_privately(order, Path(folder), view)
    print(line)


@app.command()
def models(
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", envvar="ZOETROPE_SERVER", help="List what a service serves instead of the presets."
        ),
    ] = None,
    presets: Annotated[bool, typer.Option("--presets", help="All presets, and what a clip costs on each.")] = False,
    size: Annotated[str | None, typer.Option(metavar="SIZE", help="Of that clip; 720p.")] = None,
    ratio: Annotated[str | None, typer.Option(metavar="RATIO", help="Of that clip; 16:9.")] = None,
    duration: Annotated[float | None, typer.Option(help="Of that clip, in seconds; 5.")] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="GPUs of the engine that makes it; 8.")] = None,
) -> None:
    """List models and their limits."""
    from serving.cli.tables import models_table

    if presets:
        from serving.cli.presets import presets_table

        clip = (size or "720p", ratio or "16:9", 5.0 if duration is None else duration, ranks or 8)
        _stdout().print(*presets_table(*clip), sep="\n")
        return
    for field, value in (("size", size), ("ratio", ratio), ("duration", duration), ("ranks", ranks)):
        if value is not None:
            from serving.cli.errors import bad_input

            raise bad_input(field, "can only be given together with --presets")
    if server is None:
        from model.presets import PRESETS, find_model

        _stdout().print(models_table([find_model(name) for name in PRESETS]))
    else:
        from serving.cli.remote import connect

        with connect(server) as client:
            _stdout().print(models_table(client.models()))


app.command()(plan)


@app.command()
def upcycle(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A dense checkpoint's folder, in diffusers' layout.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make.")],
    preset: Annotated[str, typer.Option(metavar="NAME", help="wan2.7-27b or wan2.7-27b-wide.")] = "wan2.7-27b",
    seed: Annotated[int, typer.Option(min=0, help="Of the routers' random weights.")] = 0,
) -> None:
    """Derive a checkpoint with token-routed experts that computes what its dense source computes."""
    from serving.cli.presets import run_upcycle

    print(run_upcycle(source, destination, preset, seed, _stderr()))


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(metavar="CLIPS", help="A folder of NAME.mp4, each with a NAME.txt.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to fill.")],
    model: Annotated[str, typer.Option(metavar="DIR", help="The checkpoint that is to be trained.")],
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="What clips are scaled and cut to.")],
    frames: Annotated[int, typer.Option(min=1, help="How many frames of each clip at most.")] = 81,
    fps: Annotated[float | None, typer.Option(help="Frames per second, else the checkpoint's.")] = None,
) -> None:
    """Encode clips and captions for training, see `python -m model.training --help`."""
    from serving.cli.training import run_prepare

    print(run_prepare(source, destination, model, size, frames, fps, _stderr()))


@app.command()
def jobs(
    server: ServerOption = DEFAULT_SERVER,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest first.")] = 50,
) -> None:
    """List jobs."""
    from serving.cli.remote import list_jobs
    from serving.cli.tables import jobs_table

    _stdout().print(jobs_table(list_jobs(server, limit)))


@app.command()
def watch(name: NameArgument, server: ServerOption = DEFAULT_SERVER) -> None:
    """Follow a job until it is done."""
    from serving.cli.progress import ProgressView
    from serving.cli.remote import watch_job

    with ProgressView(_stderr()) as view:
        line = watch_job(name, server, view)
    print(line)


@app.command()
def cancel(name: NameArgument, server: ServerOption = DEFAULT_SERVER) -> None:
    """Cancel a job."""
    from serving.cli.remote import cancel_job

    print(cancel_job(name, server))


@app.command()
def download(
    name: NameArgument,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to save the video.")] = None,
    latents_out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to save the latents.")] = None,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Fetch the files of a finished job."""
    from serving.cli.remote import download_job

    print(download_job(name, out, latents_out, server))


@app.command()
def doctor(
    model: ModelOption = None, grpc: GrpcOption = None, http: HttpOption = None, data_dir: DataDirOption = None
) -> int:
    """Check what a service needs of this machine and say what to do. Exit code 1 when it could not run."""
    from serving.cli.doctor import Status, run_checks
    from serving.cli.tables import checks_table

    settings = _settings(model=model, grpc=grpc, http=http, data_dir=data_dir)
    checks = list(run_checks(settings))
    _stdout().print(checks_table(checks))
    return int(any(check.status is Status.FAIL for check in checks))


def _settings(**options: Any) -> Settings:
    """What was given on the command line, over ZOETROPE_* variables, over the defaults.

    Raises:
        CliError, AddressError: a value that no service can have.
    """
    from pydantic import ValidationError

    from serving.addresses import parse_address
    from serving.cli.errors import bad_input
    from serving.settings import Settings

    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        field = ".".join(map(str, item["loc"])).replace("_", "-")
        raise bad_input(field, f"{item['input']!r}: {item['msg'].lower()}") from None
    for field in ("grpc", "http"):
        parse_address(getattr(settings, field), field)
    return settings


def _usage_line(error: typer.TyperException) -> str:
    """What is wrong with the command line, by the name of the option or argument."""
    if isinstance(error, typer.BadParameter) and error.param is not None:
        name = (error.param.name or "").replace("_", "-")
        return " ".join(f"{name}: {error.message or 'is missing'}".split())
    return " ".join(error.format_message().split())


def _version() -> str:
    try:
        return version("zoetrope")
    except PackageNotFoundError:
        return "(not installed)"


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


def _stdout() -> Console:
    """Tables keep their columns whole where the output is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)
