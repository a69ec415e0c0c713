"""Commands that talk to a service over gRPC."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.presets import check_files, find_model
from model.resolve import resolve
from model.tasks import MAX_SEED, parse_request
from serving.addresses import parse_address
from serving.api import API_TASKS
from serving.cli.errors import BAD_INPUT, INTERRUPTED, CliError, bad_input
from serving.cli.local import DEFAULT_MODEL
from serving.cli.order import Order, check_latents_name, prepare_file, result_line
from serving.cli.progress import ProgressView
from serving.cli.service import private_service, serve_command
from serving.client import OperationStatus, VideoClient, VideoInfo

PREFIX = "operations/"
PAGE_SIZE = 100
SUFFIXES = {"video/mp4": ".mp4", "video/x-matroska": ".mkv"}


@contextmanager
def connect(server: str) -> Iterator[VideoClient]:
    """A client of a service that answers now; its patient calls would wait for one that is not there.

    Raises:
        AddressError, ClientError: it is no address, or nothing answers there.
    """
    parse_address(server, "server")
    with VideoClient(server) as client:
        client.models()
        yield client


def generate_remotely(order: Order, server: str, view: ProgressView) -> str:
    """Submit to a running service, follow the job and fetch its files.

    Returns:
        The line to print.

    Raises:
        CliError, ClientError: the request is refused, or the job fails.
    """
    _refuse_media(order)
    order.prepare_files()
    with connect(server) as client:
        return _generate(order, client, order.model or "", view)


def generate_privately(order: Order, folder: Path, view: ProgressView) -> str:
    """As `generate_remotely`, with a service that is started for this job, keeps its data in ``folder`` and is stopped.

    Raises:
        InvalidRequest, ModelError, CliError, ClientError: what can be known before the service starts is told before.
    """
    _refuse_media(order)
    model = order.model or DEFAULT_MODEL
    card = find_model(model)
    resolve(parse_request(order.request()), card, secrets.randbelow(MAX_SEED + 1))
    check_files(card)
    order.prepare_files()
    with private_service(serve_command(model, folder / "data"), folder / "service.log") as service:
        view.message("starting a private service")
        addresses = service.wait_ready()
        with connect(addresses.grpc) as client:
            return _generate(order, client, card.name, view)


def list_jobs(server: str, limit: int) -> list[OperationStatus]:
    """The newest jobs."""
    found: list[OperationStatus] = []
    token = ""
    with connect(server) as client:
        while len(found) < limit:
            page = client.list(page_size=min(PAGE_SIZE, limit - len(found)), page_token=token)
            found += page.operations
            token = page.next_page_token
            if not token:
                break
    return found


def watch_job(name: str, server: str, view: ProgressView) -> str:
    """Follow a job to its end. Raises CliError when it makes no video."""
    with connect(server) as client:
        video = _follow(client, full_name(name), view)
    return f"{short_name(video.name)} succeeded size={video.width}x{video.height} frames={video.frames} fps={video.fps}"


def cancel_job(name: str, server: str) -> str:
    """Ask for a job's end; the line says what came of it."""
    with connect(server) as client:
        client.cancel(full_name(name))
        status = client.get(full_name(name))
    if status.done and status.state != "cancelled":
        return f"{short_name(name)} was done before: {status.state}"
    return f"{short_name(name)} {'cancelled' if status.done else 'is being cancelled'}"


def download_job(name: str, out: Path | None, latents_out: Path | None, server: str) -> str:
    """Fetch what a finished job made. Raises CliError where there is nothing to fetch."""
    if out is None and latents_out is None:
        raise bad_input("out", "name a file with --out or --latents-out")
    if latents_out is not None:
        check_latents_name(latents_out)
    with connect(server) as client:
        status = client.get(full_name(name))
        if status.video is None:
            raise bad_input("name", f"{short_name(name)} has no file, its state is {status.state}")
        saved = []
        if out is not None:
            suffix = SUFFIXES.get(status.video.mime_type, out.suffix)
            if out.suffix != suffix:
                raise bad_input("out", f"{str(out)!r} does not end in {suffix}, the video is {status.video.mime_type}")
            prepare_file(out, "out")
            client.download(full_name(name), out)
            saved.append(str(out))
        if latents_out is not None:
            prepare_file(latents_out, "latents-out")
            client.download(full_name(name), latents_out, artifact="latents")
            saved.append(f"latents={latents_out}")
    return f"saved {' '.join(saved)}"


def full_name(name: str) -> str:
    """The operation's name; the part after ``operations/`` is enough."""
    return name if name.startswith(PREFIX) else PREFIX + name


def short_name(name: str) -> str:
    return name.removeprefix(PREFIX)


def _refuse_media(order: Order) -> None:
    """The service's API takes words only so far. Raises CliError."""
    kind = order.media.task()["kind"]
    if kind not in API_TASKS:
        raise bad_input("local", f"is needed for a task of kind {kind}, the service takes {', '.join(API_TASKS)}")
    if order.audio is not None or order.guidance_low is not None:
        field = "audio" if order.audio is not None else "guidance-low"
        raise bad_input(field, "is taken with --local only so far")


def _generate(order: Order, client: VideoClient, model: str, view: ProgressView) -> str:
    view.message("submitting")
    name = client.create(order.request(), model=model)
    try:
        video = _follow(client, name, view)
        client.download(name, order.out)
        if order.latents_out is not None:
            client.download(name, order.latents_out, artifact="latents")
    except KeyboardInterrupt:
        hint = f"interrupted, {short_name(name)} goes on; see zoetrope watch, download and cancel"
        raise CliError(hint, INTERRUPTED) from None
    return result_line(
        order,
        size=(video.width, video.height),
        native_size=(video.native_width, video.native_height),
        frames=video.frames,
        fps=video.fps,
        seed=video.seed,
        steps=video.steps,
        model=video.model,
    )


def _follow(client: VideoClient, name: str, view: ProgressView) -> VideoInfo:
    """Show progress until the job is done.

    Raises:
        CliError: it failed or was cancelled.
    """
    for status in client.watch(name):
        view.update(
            status.state,
            status.step,
            status.steps,
            queue_position=status.queue_position,
            eta_seconds=status.eta_seconds,
            attempt=status.attempt,
        )
        if status.done:
            break
    for warning in status.warnings:
        view.warn(warning)
    if status.video is None:
        reason = status.error.message if status.error else "it made no video"
        code = BAD_INPUT if status.error and status.error.code == "INVALID_ARGUMENT" else 1
        raise CliError(f"{short_name(name)} {status.state}: {reason}", code)
    return status.video
