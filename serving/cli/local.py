"""`zoetrope generate --local`: the same model code in this process, without Ray."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from model.presets import open_model
from model.resolve import resolve
from model.tasks import MAX_DRAWN_SEED, parse_request
from serving.cli.errors import CliError
from serving.cli.order import DEFAULT_MODEL, Order, replacing, result_line
from serving.cli.progress import ProgressView
from serving.task_media import examine, load


def generate_locally(order: Order, view: ProgressView) -> str:
    """Make the file.

    Returns:
        The line to print.

    Raises:
        InvalidRequest, ModelError, CliError: what can be known from the options and the checkpoint's headers
            is told before torch is loaded.
    """
    card = open_model(order.model or DEFAULT_MODEL, order.family or "")
    request = parse_request(order.request())
    media = examine(request.task, audio=request.audio)
    spec = resolve(request, card, secrets.randbelow(MAX_DRAWN_SEED + 1), media)
    order.prepare_files()

    view.message(f"loading {card.name}")
    from model.denoise import NotFinite
    from model.pipeline import LocalPipeline
    from serving.media import MediaError
    from serving.stages.render import render_video, save_latents

    inputs = load(spec, card, media)
    pipeline = LocalPipeline.load(card, view.loading)
    for warning in (*card.warnings, *spec.warnings, *pipeline.warnings(spec)):
        view.warn(warning)
    steps = spec.steps * len(spec.spans)
    view.update("conditioning", 0, steps)
    started = time.monotonic()

    def on_step(step: int, steps: int) -> None:
        left = (time.monotonic() - started) / step * (steps - step)
        view.update("denoising", step, steps, eta_seconds=left)

    try:
        latents = pipeline.run(spec, inputs, on_step)
    except NotFinite as error:
        raise CliError(f"{card.name}: {error}") from None
    if order.latents_out is not None:
        with replacing(order.latents_out) as path:
            save_latents(latents, path)
    view.update("decoding", steps, steps)
    with replacing(order.out) as path:
        audio = None if spec.audio is None else Path(spec.audio)
        try:
            render_video(spec, pipeline.decode_spans(spec, latents), path, audio)
        except MediaError as error:
            raise CliError(f"{card.name}: {error}") from None
    return result_line(
        order,
        size=(spec.width, spec.height),
        native_size=(spec.native_width, spec.native_height),
        frames=spec.frames,
        fps=spec.fps,
        seed=spec.seed,
        steps=spec.steps,
        model=card.name,
    )
