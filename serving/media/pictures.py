"""Picture files to RGB pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

from model.inputs import Picture
from serving.media.errors import MediaError

MAX_PICTURE_PIXELS = 64_000_000
# Formats that can be read; the rest of Pillow's plugins never see a file from outside.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# EXIF's orientation: what has to be done to a stored picture to see it upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(path: Path) -> Picture:
    """Decode a picture, upright and in 8-bit RGB.

    * EXIF's orientation is applied. Colour profiles are not: numbers are taken for sRGB.
    * Alpha, or a transparent colour, is laid over white.
    * Grey, palette and CMYK become RGB; 16-bit values are divided by 257 (colour ones
      by Pillow, which cuts the low byte).
    * Of an animation (GIF, WebP, PNG) it is the first frame.

    Raises:
        MediaError: the file cannot be read, is no picture of `FORMATS`, has more than `MAX_PICTURE_PIXELS` (found
            before any is decoded), is cut short or damaged, or holds floating-point values, which have no fixed range.
    """
    return Picture(_pixels(load_picture(path), path))


def picture_format(path: Path) -> str | None:
    """Which of `FORMATS` a file's first bytes announce; its name does not matter.

    Raises:
        MediaError: it cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            prefix = file.read(16)
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}") from error
    Image.init()
    for name in FORMATS:
        accept = Image.OPEN[name][1] if name in Image.OPEN else None
        if accept is not None and accept(prefix):
            return name
    return None


def load_picture(path: Path) -> Image.Image:
    """Decode a picture and turn it upright, in the mode that the file has. Raises MediaError as `read_picture`."""
    name = picture_format(path)
    if name is None:
        raise MediaError(f"{path} is no picture that can be read ({', '.join(FORMATS)})")
    try:
        # Not Image.open: its own limit warns or raises before ours can tell the size.
        with path.open("rb") as file:
            image = Image.OPEN[name][0](file, str(path))
            pixels = image.width * image.height
            if pixels > MAX_PICTURE_PIXELS:
                raise MediaError(
                    f"{path} has {pixels} pixels ({image.width}x{image.height}), the limit is {MAX_PICTURE_PIXELS}"
                )
            image.load()
            return _upright(image)
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # decoders meet damaged files with errors of almost any kind
        reason = " ".join(str(error).split())[:200]
        raise MediaError(f"{path} cannot be decoded as {name}: {reason or type(error).__name__}") from error


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a picture is worth showing when its EXIF data are damaged
        orientation = None
    method = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _pixels(image: Image.Image, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """uint8 ``[H, W, 3]``."""
    try:
        if image.mode == "F":
            raise MediaError(f"{path} holds floating-point values, which have no fixed range")
        if image.mode.startswith("I"):
            return _from_sixteen_bits(image, path)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.array(image.convert("RGB"), np.uint8)
    except ValueError as error:
        raise MediaError(f"{path} of mode {image.mode} cannot be made RGB: {error}") from error


def _from_sixteen_bits(image: Image.Image, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise MediaError(f"{path} holds values from {values.min()} to {values.max()}, the limits are 0 and 65535")
    grey = ((values + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return np.repeat(grey[..., None], 3, axis=2)
