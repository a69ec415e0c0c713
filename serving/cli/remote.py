"""What commands do with a service over gRPC."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.presets import open_model
from model.resolve import resolve
from model.tasks import MAX_DRAWN_SEED, parse_request
from serving.api.formats import MIME_TYPES, container_of
from serving.api.names import OPERATIONS, full_name
from serving.cli.connection import Connection, connect
from serving.cli.errors import BAD_INPUT, INTERRUPTED, CliError, bad_input, option_name
from serving.cli.order import DEFAULT_MODEL, Order, check_latents_name, prepare_file, result_line
from serving.cli.progress import ProgressView
from serving.cli.service import private_service, serve_command
from serving.client import OperationStatus, VideoClient, VideoInfo

PAGE_SIZE = 100


def generate_remotely(order: Order, connection: Connection, view: ProgressView) -> str:
    """Submit to a running service, follow the job and fetch its files.

    Returns:
        The line to print.

    Raises:
        CliError, ClientError: the request is refused, or the job fails.
    """
    order.upload_request()
    if not order.options.detach:
        order.prepare_files()
    with connect(connection, order.options.patience) as client:
        return _generate(order, client, order.model or "", view)


def generate_privately(order: Order, folder: Path, view: ProgressView) -> str:
    """As `generate_remotely`, with a service that is started for this job, keeps its data in ``folder`` and is stopped.

    Raises:
        InvalidRequest, ModelError, CliError, ClientError: what can be known before the service starts is told before.
    """
    from serving.task_media import examine  # brings the decoders

    model, family = order.model or DEFAULT_MODEL, order.family or ""
    card = open_model(model, family)
    request = parse_request(order.request())
    resolve(request, card, secrets.randbelow(MAX_DRAWN_SEED + 1), examine(request.task, audio=request.audio))
    order.prepare_files()
    for warning in card.warnings:
        view.warn(warning)
    with private_service(serve_command(model, folder / "data", family), folder / "service.log") as service:
        view.message("starting a private service")
        addresses = service.wait_ready()
        with connect(Connection(addresses.grpc)) as client:
            return _generate(order, client, card.name, view)


def list_jobs(connection: Connection, limit: int, filter: str = "") -> list[OperationStatus]:
    """The newest jobs."""
    found: list[OperationStatus] = []
    token = ""
    with connect(connection) as client:
        while len(found) < limit:
            page = client.list(page_size=min(PAGE_SIZE, limit - len(found)), page_token=token, filter=filter)
            found += page.operations
            token = page.next_page_token
            if not token:
                break
    return found


def watch_job(name: str, connection: Connection, view: ProgressView) -> str:
    """Follow a job to its end. Raises CliError when it makes no video."""
    with connect(connection) as client:
        video = _follow(client, full_name(OPERATIONS, name), view)
    return f"{short_name(video.name)} succeeded size={video.width}x{video.height} frames={video.frames} fps={video.fps}"


def cancel_job(name: str, connection: Connection) -> str:
    """Ask for a job's end; the line says what came of it."""
    with connect(connection) as client:
        client.cancel(full_name(OPERATIONS, name))
        status = client.get(full_name(OPERATIONS, name))
    if status.done and status.state != "cancelled":
        return f"{short_name(name)} was done before: {status.state}"
    return f"{short_name(name)} {'cancelled' if status.done else 'is being cancelled'}"


def download_job(name: str, out: Path | None, latents_out: Path | None, connection: Connection) -> str:
    """Fetch what a finished job made. Raises CliError where there is nothing to fetch."""
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
    return f"saved {' '.join(saved)}"


def extend_job(
    name: str, prompt: str, fields: Mapping[str, Any], out: Path | None, connection: Connection, view: ProgressView
) -> str:
    """Submit the continuation of a finished video. The new job's name; with ``out`` what was saved, once it is done."""
    with connect(connection) as client:
        if out is not None:
            _check_suffix(out, _finished(client, name))  # the new video is of the same kind
            prepare_file(out, "out")
        made = client.extend(full_name(OPERATIONS, name), prompt, **fields)
        if out is None:
            return short_name(made)
        try:
            _follow(client, made, view)
            client.download(made, out)
        except KeyboardInterrupt:
            raise _left(made) from None
    return f"saved {out}"


def short_name(name: str) -> str:
    return name.removeprefix(OPERATIONS)


def _finished(client: VideoClient, name: str) -> VideoInfo:
    status = client.get(full_name(OPERATIONS, name))
    if status.video is None:
        raise bad_input("name", f"{short_name(name)} has no file, its state is {status.state}")
    return status.video


def _check_suffix(out: Path, video: VideoInfo) -> None:
    container = next((name for name, mime_type in MIME_TYPES.items() if mime_type == video.mime_type), None)
    if container is not None and container_of(out) != container:
        raise bad_input("out", f"{str(out)!r} does not end in .{container}, the file is {video.mime_type}")


def _left(name: str) -> CliError:
    hint = f"interrupted, {short_name(name)} goes on; see zoetrope watch, download and cancel"
    return CliError(hint, INTERRUPTED)


def _generate(order: Order, client: VideoClient, model: str, view: ProgressView) -> str:
    view.message("submitting")

    def on_upload(field: str, sent: int, total: int) -> None:
        view.uploading(option_name(field), sent, total)

    fields: dict[str, Any] = {**order.options.fields(), "model": model}
    name = client.create(order.upload_request(), on_upload=on_upload, **fields)
    if order.options.detach:
        return short_name(name)
    try:
        video = _follow(client, name, view)
        client.download(name, order.out)
        if order.latents_out is not None:
            client.download(name, order.latents_out, artifact="latents")
    except KeyboardInterrupt:
        raise _left(name) from None
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
            notice=status.notice,
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
