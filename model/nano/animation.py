"""Draws the animation of the README: ``python -m zoetrope.model.nano.animation --out docs/nano/six-tasks.webp``.

It takes one held-out case of each task, in five shapes, and denoises all six in one batch, with the pipeline that
serves. The cases follow from the seed alone: none is picked by hand.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.media.inputs import Clip, Inputs
from zoetrope.model.nano.cases import Frames, NanoCase, held_out
from zoetrope.model.nano.samples import TASKS, TaskKind
from zoetrope.model.nano.sheet import EDGE, GIVEN_EDGE, INK, PAPER, given_pictures

TITLES: dict[TaskKind, str] = {
    "text_to_video": "text to video",
    "image_to_video": "image to video",
    "first_last_frame": "first and last frame",
    "grid_to_video": "3x3 grid to video",
    "reference_to_video": "references to video",
    "edit_video": "edit",
}
SEED = 987_654
COLUMNS = 3
GIVEN_BOX, CLIP_BOX = (78, 78), (164, 110)  # pixels, width and height
GAP, MARGIN = 6, 16
TITLE_HEIGHT, CAPTION_HEIGHT = 24, 24
TITLE_SIZE, CAPTION_SIZE = 16, 13
ARROW_WIDTH = 22
QUALITY = 70  # of WebP
FPS = 8


@dataclass(frozen=True, eq=False)
class Cell:
    """One task: what it was given and what was made of it, each ``[F, H, W, 3]`` uint8; a picture has one frame."""

    title: str
    caption: str
    given: tuple[Frames, ...]
    clip: Frames


def cells_of(cases: Sequence[NanoCase], clips: Sequence[Frames]) -> list[Cell]:
    """Pair each case with the frames that the model made of it."""
    return [
        Cell(
            TITLES[case.kind],
            case.spec.prompt,
            _given(case.inputs),
            clip[: case.spec.frames],
        )
        for case, clip in zip(cases, clips, strict=True)
    ]


def draw(cells: Sequence[Cell]) -> list[Image.Image]:
    """Draw the frames of the animation, as many as the longest clip has; shorter ones rest on their last frame."""
    count = max(len(cell.clip) for cell in cells)
    return [_frame(cells, index) for index in range(count)]


def save(frames: Sequence[Image.Image], path: Path) -> None:
    """Write an animated WebP that repeats for ever."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = frames
    first.save(path, save_all=True, append_images=rest, duration=1000 // FPS, loop=0, quality=QUALITY, method=6)


def _given(inputs: Inputs) -> tuple[Frames, ...]:
    """Return what a task was given; unlike on a sheet, a clip moves."""
    pictures = replace(inputs, video=None)
    shown = [picture[None] for picture in given_pictures(pictures)]
    return ((inputs.video.frames,) if isinstance(inputs.video, Clip) else ()) + tuple(shown)


def _frame(cells: Sequence[Cell], index: int) -> Image.Image:
    width = 2 * (GIVEN_BOX[0] + GAP) + ARROW_WIDTH + CLIP_BOX[0]
    height = TITLE_HEIGHT + CLIP_BOX[1] + CAPTION_HEIGHT
    rows = -(-len(cells) // COLUMNS)
    size = (MARGIN + COLUMNS * (width + MARGIN), MARGIN + rows * (height + MARGIN))
    image = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(image)
    title, caption = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(CAPTION_SIZE)
    for number, cell in enumerate(cells):
        left = MARGIN + number % COLUMNS * (width + MARGIN)
        top = MARGIN + number // COLUMNS * (height + MARGIN)
        pen.text((left, top), cell.title, fill=GIVEN_EDGE, font=title)
        x, y = left, top + TITLE_HEIGHT
        for given in cell.given:
            x += _paste(image, given[min(index, len(given) - 1)], x, y, GIVEN_BOX, GIVEN_EDGE) + GAP
        if cell.given:
            middle, tip = y + CLIP_BOX[1] // 2, x + ARROW_WIDTH - GAP
            pen.line((x, middle, tip - 6, middle), fill=INK, width=2)
            pen.polygon([(tip - 6, middle - 5), (tip - 6, middle + 5), (tip, middle)], fill=INK)
            x += ARROW_WIDTH
        _paste(image, cell.clip[min(index, len(cell.clip) - 1)], x, y, CLIP_BOX, EDGE)
        text = textwrap.shorten(cell.caption, width // 6, placeholder=" ...")
        pen.text((left, y + CLIP_BOX[1] + 3), text, fill=INK, font=caption)
    return image


def _paste(image: Image.Image, pixels: Frames, x: int, y: int, box: tuple[int, int], edge: tuple[int, int, int]) -> int:
    """Fit a picture ``[H, W, 3]`` into a box, scaled by Lanczos as the decoder scales; return its width in pixels."""
    height, width = pixels.shape[:2]
    scale = min(box[0] / width, box[1] / height)
    size: tuple[int, int] = (max(1, round(width * scale)), max(1, round(height * scale)))
    y += (CLIP_BOX[1] - size[1]) // 2
    image.paste(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), (x, y))
    ImageDraw.Draw(image).rectangle((x, y, x + size[0] - 1, y + size[1] - 1), outline=edge, width=2)
    return size[0]


def main(arguments: list[str] | None = None) -> int:
    """Write the animation; print what was in the batch."""
    parser = argparse.ArgumentParser(description="Draw the animation of the README.")
    parser.add_argument("--out", type=Path, default=Path("six-tasks.webp"), help="file to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the cases (default: %(default)s)")
    options = parser.parse_args(arguments)
    from zoetrope.model.pipeline import LocalPipeline  # loads torch; --help does not need it

    card = find_model("nano")
    cases = [held_out(kind, card, i + 1, options.seed)[i] for i, kind in enumerate(TASKS)]
    pipeline = LocalPipeline.load(card)
    latents = pipeline.run_batch([case.spec for case in cases], inputs=[case.inputs for case in cases])
    clips = [np.concatenate(list(pipeline.decode(part))) for part in latents]
    frames = draw(cells_of(cases, clips))
    save(frames, options.out)
    shapes = ", ".join(sorted({f"{case.spec.native_width}x{case.spec.native_height}" for case in cases}))
    size = options.out.stat().st_size
    print(f"{options.out}: {len(cases)} tasks in one batch, shapes {shapes}, {len(frames)} frames, {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
