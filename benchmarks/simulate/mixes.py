"""Mixes of jobs to draw traces from: shares of sizes, durations, steps and tasks."""

from __future__ import annotations

from dataclasses import dataclass

from zoetrope.benchmarks.simulate.trace import Kind
from zoetrope.model.request.sizes import SIZES

# Shares of the six tasks; our assumption, no service has published its own.
TASKS: dict[Kind, float] = {
    "text_to_video": 0.45,
    "image_to_video": 0.35,
    "first_last_frame": 0.05,
    "grid_to_video": 0.03,
    "reference_to_video": 0.07,
    "edit_video": 0.05,
}


@dataclass(frozen=True)
class Ingredient:
    """One kind of job in a mix. ``share`` of the jobs; ``size``: a name of `SIZES`, or WIDTHxHEIGHT."""

    share: float
    size: str
    seconds: float
    steps: int
    branches: int = 2

    def pixels(self, ratio: str) -> tuple[int, int]:
        """Return width and height in one of the ratios of `SIZES`."""
        if self.size in SIZES:
            return SIZES[self.size][ratio]
        width, height = map(int, self.size.split("x"))
        return (width, height) if ratio != "9:16" else (height, width)


MIXES: dict[str, tuple[Ingredient, ...]] = {
    # Many drafts and short clips, a tail of long and large ones.
    "mixed": (
        Ingredient(0.30, "480p", 2.0, 20),
        Ingredient(0.30, "480p", 5.0, 30),
        Ingredient(0.20, "720p", 5.0, 40),
        Ingredient(0.10, "720p", 10.0, 40),
        Ingredient(0.07, "1080p", 5.0, 50),
        Ingredient(0.03, "1080p", 10.0, 50),
    ),
    # Small work, with one job in twenty that is very large.
    "tail": (
        Ingredient(0.60, "480p", 2.0, 20),
        Ingredient(0.35, "480p", 5.0, 30),
        Ingredient(0.05, "1080p", 10.0, 50),
    ),
    # One class: what every serving benchmark starts with.
    "same": (Ingredient(1.0, "480p", 5.0, 50),),
    # A few-step distill without guidance.
    "distill": (
        Ingredient(0.40, "480p", 5.0, 4, 1),
        Ingredient(0.40, "720p", 5.0, 4, 1),
        Ingredient(0.15, "720p", 10.0, 4, 1),
        Ingredient(0.05, "1080p", 5.0, 4, 1),
    ),
    # Sizes that nano denoises at.
    "nano": (
        Ingredient(0.40, "40x24", 1.0, 10),
        Ingredient(0.30, "40x24", 2.0, 20),
        Ingredient(0.20, "32x32", 2.0, 30),
        Ingredient(0.10, "40x24", 4.0, 40),
    ),
}
