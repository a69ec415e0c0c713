"""A contact sheet: some frames of many clips side by side in one image, captioned."""

from __future__ import annotations

import textwrap

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

FRAMES_SHOWN = 5
COLUMNS = 2  # clips side by side
PANEL_HEIGHT = 128
PANEL_WIDTH = 144  # the widest panel; taller clips get narrower ones
GAP = 4
MARGIN = 12
CAPTION_HEIGHT = 40
FONT_SIZE = 15
INK, PAPER = (20, 20, 20), (250, 250, 248)


def contact_sheet(clips: list[npt.NDArray[np.uint8]], captions: list[str]) -> Image.Image:
    """Evenly spaced frames of each clip ``[F, H, W, 3]``, first and last among them, over its caption.

    Frames are scaled up by a Lanczos filter, as the decoder scales up a clip.
    """
    font = ImageFont.load_default(FONT_SIZE)
    tile = (FRAMES_SHOWN * (PANEL_WIDTH + GAP) - GAP, PANEL_HEIGHT + CAPTION_HEIGHT)
    rows = -(-len(clips) // COLUMNS)
    size = (MARGIN + COLUMNS * (tile[0] + MARGIN), MARGIN + rows * (tile[1] + MARGIN))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        left = MARGIN + number % COLUMNS * (tile[0] + MARGIN)
        top = MARGIN + number // COLUMNS * (tile[1] + MARGIN)
        for column, index in enumerate(np.linspace(0, len(clip) - 1, FRAMES_SHOWN).round().astype(int)):
            panel = _fit(clip[index])
            x = left + column * (PANEL_WIDTH + GAP)
            box = (x, top, x + panel.width - 1, top + panel.height - 1)
            sheet.paste(panel, box[:2])
            pen.rectangle(box, outline=(190, 190, 190))  # a white clip ends somewhere, too
        text = "\n".join(textwrap.wrap(caption, width=tile[0] // 8)[:2])
        pen.multiline_text((left, top + panel.height + 3), text, fill=INK, font=font, spacing=2)
    return sheet


def _fit(frame: npt.NDArray[np.uint8]) -> Image.Image:
    height, width = frame.shape[:2]
    scale = min(PANEL_WIDTH / width, PANEL_HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
