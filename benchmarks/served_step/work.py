"""The measured work: one clip, the same for the service and the bare model."""

from __future__ import annotations

from dataclasses import dataclass

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import (
    FirstLastFrame,
    ImageToVideo,
    InvalidRequest,
    ModelCard,
    Task,
    TextToVideo,
    VideoRequest,
)

PROMPT = "a red circle moving right"
RATIO = "16:9"
SEED = 1
MIN_STEPS = 4  # the first and the last are not counted, and an interval needs two ends


@dataclass(frozen=True)
class ServedWork:
    """Runs of one clip. Each is timed from the end of the first step to the end of the last but one: a client can
    observe these, but not the end of the last step, after which decoding starts.

    Attributes:
        model: as for `zoetrope serve --model`.
        size: a name of `model.request.sizes.SIZES` or WIDTHxHEIGHT.
        duration: seconds.
        steps: steps of each run.
        repeats: runs of each process, after a short one to warm up.
    """

    model: str
    size: str
    duration: float
    steps: int
    repeats: int


def task_of(card: ModelCard, picture: str) -> Task:
    """Return the task of the model that needs the fewest inputs; ``picture`` is used if it needs any."""
    if "text_to_video" in card.tasks:
        return TextToVideo(prompt=PROMPT)
    if "image_to_video" in card.tasks:
        return ImageToVideo(prompt=PROMPT, image=picture)
    return FirstLastFrame(prompt=PROMPT, first_frame=picture, last_frame=picture)


def spec_of(card: ModelCard, work: ServedWork) -> VideoSpec:
    """Resolve the clip as the service does.

    Raises:
        BenchmarkError: the model cannot make such a clip, or only in several segments.
    """
    request = VideoRequest(
        task=task_of(card, "picture"),
        size=work.size,
        ratio=RATIO,
        duration_seconds=work.duration,
        steps=work.steps,
        seed=SEED,
    )
    try:
        spec = resolve(request, card, SEED)
    except InvalidRequest as error:
        raise BenchmarkError(str(error)) from None
    if len(spec.spans) > 1:
        longest = card.segment_frames / card.fps
        raise BenchmarkError(
            f"--duration {work.duration:g} needs {len(spec.spans)} segments of {card.name}; "
            f"must be at most {longest:.3g}"
        )
    return spec
