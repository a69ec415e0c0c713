"""`zoetrope generate --local`: runs the model in this process, without Ray."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from zoetrope.model.catalog.presets import open_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.steps import forwards
from zoetrope.model.request.tasks import MAX_DRAWN_SEED, parse_request
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.generate_request import DEFAULT_MODEL, GenerateRequest, replacing, result_line
from zoetrope.serving.cli.progress import ProgressView
from zoetrope.serving.media.task_inputs import examine, load


def generate_locally(request: GenerateRequest, view: ProgressView) -> str:
    """Make the file.

    Returns:
        The line to print.

    Raises:
        InvalidRequest, ModelError, CliError: what the options and the checkpoint's headers reveal is raised before
            torch is loaded.
    """
    card = open_model(request.model or DEFAULT_MODEL, request.load.resolved())
    parsed = parse_request(request.request())
    media = examine(parsed.task, audio=parsed.audio)
    spec = resolve(parsed, card, secrets.randbelow(MAX_DRAWN_SEED + 1), media)

    view.message(f"loading {card.name}")
    from zoetrope.cluster.planning.device_plan import device_plan
    from zoetrope.model.checkpoints.load import configure_torch
    from zoetrope.model.denoising.denoise import NotFinite
    from zoetrope.model.pipeline import LocalPipeline
    from zoetrope.serving.media import MediaError
    from zoetrope.serving.stages.render import render_video, save_latents

    inputs = load(spec, card, media)
    pipeline = LocalPipeline.load(card, view.loading, device_plan(card, configure_torch(card)))
    for warning in (*card.warnings, *spec.warnings, *pipeline.warnings(spec)):
        view.warn(warning)
    steps = spec.steps * len(spec.spans)
    view.update("conditioning", 0, steps)
    started = time.monotonic()

    def on_step(step: int, steps: int) -> None:
        whole = forwards(spec)
        done = step // spec.steps * whole + whole - forwards(spec, step % spec.steps)
        left = (time.monotonic() - started) / done * (len(spec.spans) * whole - done)
        view.update("denoising", step, steps, eta_seconds=left)

    try:
        latents = pipeline.run(spec, inputs, on_step)
    except NotFinite as error:
        raise CliError(f"{card.name}: {error}") from None
    if request.latents_out is not None:
        with replacing(request.latents_out) as path:
            save_latents(latents, path)
    view.update("decoding", steps, steps)
    with replacing(request.out) as path:
        audio = None if spec.audio is None else Path(spec.audio)
        try:
            render_video(spec, pipeline.decode_spans(spec, latents), path, audio)
        except MediaError as error:
            raise CliError(f"{card.name}: {error}") from None
    return result_line(
        request,
        size=(spec.width, spec.height),
        native_size=(spec.native_width, spec.native_height),
        frames=spec.frames,
        fps=spec.fps,
        seed=spec.seed,
        steps=spec.steps,
        model=card.name,
    )
