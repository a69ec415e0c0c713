"""A checked request as the API's message."""

from __future__ import annotations

from zoetrope.model.request.steps import computed_steps
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.gateway.submit.submission import Validated


def encode_validated(found: Validated, gpu_hour_price: float) -> video_pb2.ValidateVideoResponse:
    """Return how a request was understood, with its price; ``gpu_hour_price``: 0 for none."""
    spec, price = found.spec, found.price
    message = video_pb2.ValidateVideoResponse(
        model=found.card.name,
        task=spec.task.kind,
        width=spec.width,
        height=spec.height,
        native_width=spec.native_width,
        native_height=spec.native_height,
        frames=spec.frames,
        fps=spec.fps,
        segments=len(spec.spans),
        steps=spec.steps,
        computed_steps=computed_steps(spec),
        warnings=found.job.warnings,
        measured=found.quote.calibrated,
    )
    if price is None:
        return message
    message.price_gpu_seconds = price.total
    for stage in ("conditioning", "denoising", "decoding"):
        message.price_by_stage[stage] = getattr(price, stage)
    if gpu_hour_price > 0:
        message.estimated_cost = price.total / 3_600 * gpu_hour_price
        message.estimated_cost_per_second = message.estimated_cost / (spec.frames / spec.fps)
    if found.outlook is not None:
        message.eta_seconds, message.eta_low_seconds, message.eta_high_seconds = found.outlook
    return message
