"""Give each segment of a chained clip its length, its part of the source and the frames before it."""

from __future__ import annotations

from dataclasses import replace

from zoetrope.model.media.inputs import Clip, Inputs
from zoetrope.model.media.resize import as_long_as
from zoetrope.model.request.specs import SegmentFrames, VideoSpec


def span_spec(spec: VideoSpec, index: int) -> VideoSpec:
    """Return the request for one span as if it were a clip of its own."""
    span = spec.spans[index]
    c, _, h, w = spec.latent_shape
    return replace(
        spec,
        frames=span.frames,
        model_frames=span.frames,
        latent_shape=(c, 1 + (span.frames - 1) // spec.temporal, h, w),
        spans=(SegmentFrames(0, span.frames, span.known),),
    )


def span_inputs(spec: VideoSpec, inputs: Inputs, index: int, before: Clip | None) -> Inputs:
    """Return the media of one span. The first picture belongs to the first span, the last to the last; those in between
    only continue the one before. A source clip that is too short repeats its last frame.

    Args:
        before: frames taken over from the span before; None for the first span, which may continue a clip of the task
            (`Inputs.before`).
    """
    span = spec.spans[index]
    last = index == len(spec.spans) - 1
    video = inputs.video
    if video is not None:
        end = span.first + span.frames
        video = Clip(as_long_as(video.frames, end)[span.first :], video.fps)
    return replace(
        inputs,
        first=inputs.first if index == 0 else None,
        last=inputs.last if last else None,
        before=inputs.before if index == 0 else before,
        video=video,
        goes_on=not last,
    )


def overlap_of(spec: VideoSpec, index: int) -> int:
    """Return how many of a span's last frames the next one takes over; 0 for the last span."""
    return spec.spans[index + 1].known if index + 1 < len(spec.spans) else 0
