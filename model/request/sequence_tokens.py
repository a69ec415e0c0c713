"""Count what a request adds to its clip's tokens: sources, references, a last frame; and its guidance branches.

The conditioners decide (`model.conditioning`); this says the same from what is known before anything is decoded, so
that a price does not change when a job runs. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import (
    EditVideo,
    FirstLastFrame,
    GridToVideo,
    ImageToVideo,
    MediaInfo,
    ModelCard,
    ReferenceToVideo,
)

SHEET = 2  # sides of the clip's size at which our own conditioner shows a grid (`model.conditioning.pixels`)
BERNINI_SIDE = 848  # the longer side of its pictures (`model.conditioning.bernini`)


def with_sequences(spec: VideoSpec, card: ModelCard, media: Mapping[str, MediaInfo]) -> VideoSpec:
    """Return the request with ``beside`` and ``branches`` filled in.

    Args:
        media: what is known of each of the task's media, by the field that names it; an unknown clip counts as long as
            the segment, an unknown picture as large as the clip.
    """
    beside = tuple(sum(_streams(spec, card, media, index)) for index in range(len(spec.spans)))
    return replace(spec, beside=beside, branches=_branches(spec, card))


def clip_tokens(latent_frames: int, height: int, width: int, card: ModelCard) -> int:
    """Count the tokens of latents of that size."""
    patch = max(1, card.size_multiple // card.spatial)
    return latent_frames * math.ceil(height / patch) * math.ceil(width / patch)


def _branches(spec: VideoSpec, card: ModelCard) -> int:
    """Guidance branches of a guided step: Bernini-R chains them, see `model.denoising.guidance`."""
    if card.conditioner == "bernini":
        if isinstance(spec.task, EditVideo) and spec.task.references:
            return 4
        if isinstance(spec.task, ReferenceToVideo | GridToVideo):
            return 3
    return 2


def _streams(spec: VideoSpec, card: ModelCard, media: Mapping[str, MediaInfo], index: int) -> Iterator[int]:
    """Yield the tokens of each stream beside the clip of a span."""
    task, kind = spec.task, card.conditioner
    _, _, high, wide = spec.latent_shape
    frames = 1 + (spec.spans[index].frames - 1) // spec.temporal
    frame = clip_tokens(1, high, wide, card)
    last = index == len(spec.spans) - 1
    if kind == "vace":  # in front of the clip, each a frame of its size
        count = len(task.references) if isinstance(task, ReferenceToVideo | EditVideo) else 0
        yield frame * (count + isinstance(task, GridToVideo))
        return
    if kind not in ("streams", "bernini"):
        return
    if isinstance(task, EditVideo):
        yield frame * frames
    if kind == "streams" and last:
        ends = isinstance(task, FirstLastFrame) or (
            isinstance(task, ImageToVideo) and (task.loop or task.last_frame is not None)
        )
        yield frame * ends
    if isinstance(task, GridToVideo):
        sheet = MediaInfo("image", 3 * spec.native_width, 3 * spec.native_height)
        yield frame * SHEET**2 if kind == "streams" else _picture(sheet, spec, card)
    if isinstance(task, ReferenceToVideo | EditVideo):
        for number in range(len(task.references)):
            info = media.get(f"references.{number}")
            if info is not None and info.kind == "clip":
                count = min(spec.spans[index].frames, max(1, round(info.seconds * spec.fps)))
                yield frame * (1 + (count - 1) // spec.temporal)
            else:
                yield _picture(info, spec, card)


def _picture(info: MediaInfo | None, spec: VideoSpec, card: ModelCard) -> int:
    """Tokens of a reference picture."""
    width, height = spec.native_width, spec.native_height
    if card.conditioner == "streams":
        width = height = min(width, height)
    elif info is not None:
        scale = min(1.0, BERNINI_SIDE / max(info.width, info.height))
        unit = card.size_multiple
        width, height = (max(unit, round(side * scale / unit) * unit) for side in (info.width, info.height))
    return clip_tokens(1, height // card.spatial, width // card.spatial, card)
