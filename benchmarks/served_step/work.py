"""What is measured: one clip, the same for the service and for the bare model."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gateway.processes import BenchmarkError
from model.resolve import resolve
from model.tasks import (
    FirstLastFrame,
    ImageToVideo,
    InvalidRequest,
    ModelCard,
    Task,
    TextToVideo,
    VideoRequest,
    VideoSpec,
)

PROMPT = "a red circle moving right"
RATIO = "16:9"
SEED = 1
MIN_STEPS = 4  # the first and the last one do not count, and something has to lie between two ends


@dataclass(frozen=True)
class Work:
    """Runs of one clip. Of each, the time from the end of the first step to the end of the last but one counts: a
    watcher sees these ends and not the last one, behind which the decoder begins.

    Attributes:
        model: as `zoetrope serve --model` takes it. size: a name of `model.sizes.SIZES` or WIDTHxHEIGHT.
        duration: seconds. steps: of each run. repeats: runs of a process, after a short one to warm up.
    """

    model: str
    size: str
    duration: float
    steps: int
    repeats: int


def task_of(card: ModelCard, picture: str) -> Task:
    """One that the model serves and that needs least beside the noise; ``picture`` is named where it needs any."""
    if "text_to_video" in card.tasks:
        return TextToVideo(prompt=PROMPT)
    if "image_to_video" in card.tasks:
        return ImageToVideo(prompt=PROMPT, image=picture)
    return FirstLastFrame(prompt=PROMPT, first_frame=picture, last_frame=picture)


def spec_of(card: ModelCard, work: Work) -> VideoSpec:
    """As the service resolves it.

    Raises:
        BenchmarkError: the model does not make such a clip, or only in several segments.
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
            f"--duration {work.duration:g} takes {card.name} {len(spec.spans)} segments, choose at most {longest:.3g} s"
        )
    return spec
