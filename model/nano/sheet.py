"""A contact sheet: many clips in one image, each with its inputs beside it and its prompt below."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from zoetrope.model.media.inputs import Inputs, Picture, compose_sheet

Frames = npt.NDArray[np.uint8]

FRAMES_SHOWN = 6
SOURCE_FRAMES_SHOWN = 3
COLUMNS = 2  # clips side by side, if they have no conditions
PANEL_HEIGHT = 96
PANEL_WIDTH = 120  # the widest panel; taller clips get narrower ones
GAP = 4
MARGIN = 12
CAPTION_HEIGHT = 40
FONT_SIZE = 15
INK, PAPER = (20, 20, 20), (250, 250, 248)
EDGE, GIVEN_EDGE = (190, 190, 190), (40, 110, 220)  # around frames, to show the edges of a white clip


@dataclass(frozen=True, eq=False)
class Tile:
    """A clip's ``frames`` [F, H, W, 3], some of which are shown, and the pictures [h, w, 3] it was made from."""

    frames: Frames
    caption: str
    given: tuple[Frames, ...] = ()


def given_pictures(inputs: Inputs) -> tuple[Frames, ...]:
    """Return what to show of a task's media: three frames of a clip, nine panels as one sheet, pictures unchanged."""
    shown: list[Frames] = []
    for medium in (inputs.video, inputs.first, inputs.last):
        if isinstance(medium, Picture):
            shown.append(medium.pixels)
        elif medium is not None:
            shown += list(medium.frames[_evenly(len(medium.frames), SOURCE_FRAMES_SHOWN)])
    if inputs.panels:
        height, width = inputs.panels[0].pixels.shape[:2]
        scale = 1 if len(inputs.panels) > 1 else 3
        shown.append(compose_sheet(inputs.panels, width // scale, height // scale).pixels)
    shown += [r.pixels if isinstance(r, Picture) else r.frames[0] for r in inputs.references]
    return tuple(shown)


def contact_sheet(tiles: list[Tile]) -> Image.Image:
    """Compose the sheet: inputs left, in blue frames; right evenly spaced frames of the clip, including first and last.

    Frames are scaled up by a Lanczos filter, as the decoder scales up a clip.
    """
    font = ImageFont.load_default(FONT_SIZE)
    given = max(len(tile.given) for tile in tiles)
    indent = given * (PANEL_WIDTH + GAP) + (MARGIN if given else 0)
    size = (indent + FRAMES_SHOWN * (PANEL_WIDTH + GAP) - GAP, PANEL_HEIGHT + CAPTION_HEIGHT)
    columns = 1 if given else COLUMNS
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (MARGIN + columns * (size[0] + MARGIN), MARGIN + rows * (size[1] + MARGIN)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left = MARGIN + number % columns * (size[0] + MARGIN)
        top = MARGIN + number // columns * (size[1] + MARGIN)
        for column, picture in enumerate(tile.given):
            _place(sheet, picture, left + column * (PANEL_WIDTH + GAP), top, GIVEN_EDGE)
        for column, index in enumerate(_evenly(len(tile.frames), FRAMES_SHOWN)):
            _place(sheet, tile.frames[index], left + indent + column * (PANEL_WIDTH + GAP), top, EDGE)
        text = "\n".join(textwrap.wrap(tile.caption, width=size[0] // 8)[:2])
        pen.multiline_text((left, top + PANEL_HEIGHT + 3), text, fill=INK, font=font, spacing=2)
    return sheet


def _evenly(count: int, shown: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, count - 1, shown).round().astype(np.int64)


def _place(sheet: Image.Image, picture: Frames, x: int, y: int, edge: tuple[int, int, int]) -> None:
    height, width = picture.shape[:2]
    scale = min(PANEL_WIDTH / width, PANEL_HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    panel = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    sheet.paste(panel, (x, y))
    ImageDraw.Draw(sheet).rectangle((x, y, x + size[0] - 1, y + size[1] - 1), outline=edge, width=2)
