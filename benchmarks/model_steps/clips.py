"""The clips that are measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard, TextToVideo, VideoRequest

SEED = 0
_numbers = count()
PROMPT = "a red circle moving right on a white background"


@dataclass(frozen=True)
class MeasuredClip:
    """Pixels and frames; ``size`` empty, ``frames`` None: the model's default. ``steps``: None: as all others."""

    size: str = ""
    frames: int | None = None
    steps: int | None = None
    seed: int = SEED

    def spec(self, card: ModelCard, steps: int) -> VideoSpec:
        """Return what is made, with prompts that no earlier one had: no cache knows them.

        Raises:
            BenchmarkError: the clip is longer than a segment of the model.
            InvalidRequest: the model cannot make it.
        """
        number = next(_numbers)
        task = TextToVideo(prompt=f"{PROMPT} {number}", negative_prompt=f"blue {number}")
        request = VideoRequest(
            task=task, size=self.size or None, frames=self.frames, steps=self.steps or steps, seed=self.seed
        )
        spec = resolve(request, card, self.seed)
        if len(spec.spans) != 1:
            raise BenchmarkError(f"--clip: {spec.frames} frames are made in {len(spec.spans)} parts, give fewer frames")
        return spec


# Of the dense model: 72, 180, 720, 1,440 and 2,560 tokens.
DENSE = (
    MeasuredClip("96x64", 9),
    MeasuredClip("96x96", 17),
    MeasuredClip("192x192", 17),
    MeasuredClip("192x192", 37),
    MeasuredClip("256x256", 37),
)


def parse_clip(text: str) -> MeasuredClip:
    """Parse ``WIDTHxHEIGHTxFRAMES``. Raises BenchmarkError."""
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise BenchmarkError(f"--clip is {text!r}: it must be WIDTHxHEIGHTxFRAMES, such as 96x64x9")
    size, _, frames = text.rpartition("x")
    return MeasuredClip(size, int(frames))


def tokens_of(spec: VideoSpec, patch: tuple[int, int, int]) -> int:
    """Count the tokens of a clip: of one branch of guidance."""
    _, t, h, w = spec.latent_shape
    return -(-t // patch[0]) * -(-h // patch[1]) * -(-w // patch[2])
