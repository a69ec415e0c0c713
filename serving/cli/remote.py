"""`zoetrope generate` with a service: one that runs already, or a private one for this job."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoetrope.model.catalog.presets import open_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import MAX_DRAWN_SEED, parse_request
from zoetrope.serving.cli.connection import Connection, connect
from zoetrope.serving.cli.errors import BAD_INPUT, FAILURE, INTERRUPTED, CliError, option_name
from zoetrope.serving.cli.generate_request import DEFAULT_MODEL, GenerateRequest, result_line
from zoetrope.serving.cli.jobs import short_name
from zoetrope.serving.cli.load_options import registered
from zoetrope.serving.cli.progress import ProgressView
from zoetrope.serving.client import OperationStatus, ValidatedVideo, VideoClient, VideoInfo


def generate_remotely(request: GenerateRequest, connection: Connection, view: ProgressView) -> str:
    """Submit to a running service, follow the job and download its files.

    Returns:
        The line to print.

    Raises:
        CliError, ClientError: the request is refused, or the job fails.
    """
    request.upload_request()  # what is wrong with the options is told before anything is sent
    request.options.fields()
    loras = registered(request.load.lora) or None
    with connect(connection, request.options.patience) as client:
        return _generate(request, client, request.model or "", view, loras=loras)


def generate_privately(request: GenerateRequest, folder: Path, view: ProgressView) -> str:
    """Do as `generate_remotely`, with a service that is started for this job and keeps its data in ``folder``.

    Raises:
        InvalidRequest, ModelError, CliError, ClientError: what can be known before the service starts is told before.
    """
    from zoetrope.serving.media.task_inputs import examine  # brings the decoders

    model, load = request.model or DEFAULT_MODEL, request.load.resolved()
    card = open_model(model, load)
    parsed = parse_request(request.request())
    resolve(parsed, card, secrets.randbelow(MAX_DRAWN_SEED + 1), examine(parsed.task, audio=parsed.audio))
    from zoetrope.serving.cli.service import private_service, serve_command  # a client by itself has no service

    for warning in card.warnings:
        view.warn(warning)
    command = serve_command(model, folder / "data", load)
    with private_service(command, folder / "service.log") as service:
        view.message("starting a private service")
        addresses = service.wait_ready()
        with connect(Connection(addresses.grpc)) as client:
            return _generate(request, client, card.name, view)


def _generate(request: GenerateRequest, client: VideoClient, model: str, view: ProgressView, **more: Any) -> str:
    view.message("submitting")

    def on_upload(field: str, sent: int, total: int) -> None:
        view.uploading(option_name(field), sent, total)

    fields: dict[str, Any] = {**request.options.fields(), **more, "model": model}
    if request.options.dry_run:
        found = client.validate(request.upload_request(), on_upload=on_upload, **fields)
        for warning in found.warnings:
            view.warn(warning)
        return priced_line(found)
    name = client.create(request.upload_request(), on_upload=on_upload, **fields)
    if request.options.detach:
        return short_name(name)
    with following(client, name, view) as video:
        client.download(name, request.out)
        if request.latents_out is not None:
            client.download(name, request.latents_out, artifact="latents")
    return result_line(
        request,
        size=(video.width, video.height),
        native_size=(video.native_width, video.native_height),
        frames=video.frames,
        fps=video.fps,
        seed=video.seed,
        steps=video.steps,
        model=video.model,
    )


def priced_line(found: ValidatedVideo) -> str:
    """Say how a request was understood, and what it costs."""
    steps = f"{found.steps}" if found.computed_steps == found.steps else f"{found.computed_steps}/{found.steps}"
    words = [f"valid model={found.model} size={found.width}x{found.height} frames={found.frames} fps={found.fps}"]
    words += [f"steps={steps}"] + ([f"segments={found.segments}"] if found.segments > 1 else [])
    if found.price_gpu_seconds is not None:
        words.append(f"gpu_seconds={found.price_gpu_seconds:.4g}" + ("" if found.measured else " (not measured yet)"))
    if found.estimated_cost is not None:
        words.append(f"cost={found.estimated_cost:.4g}")
    if found.eta_seconds is not None:
        words.append(f"eta={found.eta_seconds:.3g}s ({found.eta_low_seconds:.3g} to {found.eta_high_seconds:.3g})")
    return " ".join(words)


@contextmanager
def following(client: VideoClient, name: str, view: ProgressView) -> Iterator[VideoInfo]:
    """Follow a job of our own, then yield its video. Ctrl-C leaves the job to the service, and says so.

    Raises:
        CliError: as for `follow`, or interrupted.
    """
    try:
        yield follow(client, name, view)
    except KeyboardInterrupt:
        line = f"interrupted; {short_name(name)} is still running, see zoetrope watch, download and cancel"
        raise CliError(line, INTERRUPTED) from None


def interval_of(status: OperationStatus) -> tuple[float, float] | None:
    """Return the interval of a job's estimate, in seconds, if it has one."""
    low, high = status.eta_low_seconds, status.eta_high_seconds
    return None if low is None or high is None else (low, high)


def follow(client: VideoClient, name: str, view: ProgressView) -> VideoInfo:
    """Show progress until the job ends.

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
            interval=interval_of(status),
            attempt=status.attempt,
            notice=status.notice,
        )
        if status.done:
            break
    for warning in status.warnings:
        view.warn(warning)
    if status.video is None:
        reason = status.error.message if status.error else "it made no video"
        code = BAD_INPUT if status.error and status.error.code == "INVALID_ARGUMENT" else FAILURE
        raise CliError(f"{short_name(name)} {status.state}: {reason}", code)
    return status.video
