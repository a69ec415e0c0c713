"""Decode picture files to RGB pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile
from pillow_heif import register_heif_opener

from zoetrope.model.media.inputs import Picture
from zoetrope.model.media.resize import Frames
from zoetrope.serving.media.errors import MediaError
from zoetrope.serving.media.formats import ANIMATED, PICTURES
from zoetrope.serving.media.tone import BT709, BT2020, CHROMATICITIES, HDR, tone_map

MAX_PICTURE_PIXELS = 64_000_000
MAX_CHUNKS = 1_000  # of a PNG, not counting those of pixels and frames
HEAD_BYTES = 64  # enough to detect a format
AVIF_BRANDS = (b"avif", b"avis")
AVIF_OPTIONS = {"format_whitelist": "mov,mp4", "codec_whitelist": "libdav1d,av1", "protocol_whitelist": "none"}
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

# EXIF orientation -> the operation that turns the picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
register_heif_opener()  # adds HEIC to Image.OPEN


def read_picture(path: Path) -> Picture:
    """Decode a picture, upright and in 8-bit RGB.

    * The orientation in EXIF, or its equivalent in HEIC and AVIF, is applied.
    * An ICC colour profile is converted to sRGB. High dynamic range (PQ or HLG, declared by cICP in PNG and by nclx in
      AVIF and HEIC) is converted to SDR as in clips. A picture with neither is taken as sRGB.
    * Alpha, or a transparent colour, is composited over white.
    * Grey, palette and CMYK become RGB; 16-bit values are divided by 257 (colour ones by Pillow, which drops the low
      byte).
    * Animations (GIF, WebP, PNG, AVIF) give their first frame, or the default image if they have one.

    Raises:
        MediaError: the file cannot be read, is not one of `serving.media.formats.PICTURES`, exceeds MAX_PICTURE_PIXELS
            (checked before decoding), is truncated or damaged, or holds floating-point values, which have no fixed
            range.
    """
    with open_picture(path) as image:
        return Picture(pixels(image, path))


def picture_format(path: Path) -> str | None:
    """Detect a picture's format, one of `serving.media.formats.PICTURES`, from its first bytes; None if it is another.

    Raises:
        MediaError: the file cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}") from error
    Image.init()  # loads the plugins, which the first file may need
    if head[4:8] == b"ftyp":  # a list of brands; the major one may be shared by both formats
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(int.from_bytes(head[:4]), HEAD_BYTES), 4))]
        if any(brand in AVIF_BRANDS for brand in brands):
            return "AVIF"
        return "HEIF" if brands[0] in HEIF_BRANDS else None
    for name in PICTURES:
        accept = Image.OPEN[name][1] if name in Image.OPEN else None
        if accept is not None and accept(head[:16]):
            return name
    return None


@contextmanager
def open_picture(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open a picture without decoding it.

    Raises:
        MediaError: as `read_picture`; also raised from within the context, where decoding happens.
    """
    name = picture_format(path)
    if name is None:
        raise MediaError(f"{path} is not a supported picture ({', '.join(PICTURES)})")
    try:
        # Not Image.open, whose own limit would apply before ours. Without a name, or Pillow may reopen the file.
        with path.open("rb") as file:
            if name == "PNG":
                _check_chunks(file, path)
            image = Image.OPEN[name][0](file, "")
            count = image.width * image.height
            if count > MAX_PICTURE_PIXELS:
                raise MediaError(
                    f"{path} has {count} pixels ({image.width}x{image.height}), the limit is {MAX_PICTURE_PIXELS}"
                )
            yield image
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # damaged files make decoders raise almost anything
        reason = " ".join(str(error).split())[:200]
        raise MediaError(f"{path} cannot be decoded as {name}: {reason or type(error).__name__}") from error


def frame_count(image: ImageFile.ImageFile) -> int:
    """Count the frames of an animation; 1 for any other picture, even one with pages or a gallery."""
    count = int(getattr(image, "n_frames", 1)) if image.format in ANIMATED else 1
    return count - first_frame(image)


def first_frame(image: ImageFile.ImageFile) -> int:
    """Return the index of an animation's first frame: 1 if picture 0 is a default image for viewers without
    animation."""
    return int(bool(image.info.get("default_image")))


def pixels(image: ImageFile.ImageFile, path: Path) -> Frames:
    """Decode the current frame to ``[H, W, 3]``, as described in `read_picture`."""
    signal = _signal(image, path)
    image.load()
    try:
        return _rgb(_upright(image), path, signal)
    except ValueError as error:
        raise MediaError(f"{path}: cannot convert mode {image.mode} to RGB: {error}") from error


def upright_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Return the displayed width and height of a loaded picture."""
    return _upright(image).size


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF data do not make the picture unusable
        orientation = None
    method = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image, path: Path, signal: tuple[int, int] | None) -> Frames:
    if image.mode == "F":
        raise MediaError(f"{path} holds floating-point values, which have no fixed range")
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image, path)
    image = _in_srgb(image)
    if not image.has_transparency_data:
        return _in_sdr(np.array(image.convert("RGB"), np.uint8), signal)
    image = image.convert("RGBA")
    if signal is not None:
        shown = Image.fromarray(_in_sdr(np.asarray(image.convert("RGB")), signal))
        shown.putalpha(image.getchannel("A"))
        image = shown
    white = Image.new("RGBA", image.size, "white")
    return np.array(Image.alpha_composite(white, image).convert("RGB"), np.uint8)


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert from the file's colour profile, if it has a readable one for its mode."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "L", "CMYK") or "transparency" in image.info:
        return image
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        return ImageCms.profileToProfile(image, io.BytesIO(profile), SRGB, outputMode=target) or image
    except (ImageCms.PyCMSError, OSError, ValueError):  # treat it as a file without a profile
        return image


def _in_sdr(rgb: Frames, signal: tuple[int, int] | None) -> Frames:
    if signal is None:
        return rgb
    red, green, blue = (rgb[..., index].astype(np.uint16) * 257 for index in range(3))
    return tone_map(*signal)(red, green, blue)


def _signal(image: ImageFile.ImageFile, path: Path) -> tuple[int, int] | None:
    """Return transfer and primaries (ITU-T H.273) of a picture with high dynamic range or a wide gamut, else None."""
    if "icc_profile" in image.info:
        return None
    transfer, primaries = 0, 0
    match image.format:
        case "PNG":
            transfer, primaries = _png_signal(path)
        case "HEIF":
            profile = image.info.get("nclx_profile") or {}
            transfer = int(profile.get("transfer_characteristics", 0))
            primaries = int(profile.get("color_primaries", 0))
        case "AVIF":
            transfer, primaries = _avif_signal(path)
    if transfer in HDR:
        return transfer, primaries if primaries in CHROMATICITIES else BT2020
    return (transfer, primaries) if primaries in CHROMATICITIES and primaries != BT709 else None


def _check_chunks(file: BinaryIO, path: Path) -> None:
    """Refuse a PNG with so many extra chunks that reading them takes longer than decoding the pixels.

    Raises:
        MediaError: there are more than MAX_CHUNKS.
    """
    file.seek(8)
    others = 0
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        others += head[4:] not in (b"IDAT", b"fdAT", b"fcTL")
        if others > MAX_CHUNKS:
            raise MediaError(f"{path} has more than {MAX_CHUNKS} chunks besides its pixels, the limit")
        file.seek(int.from_bytes(head[:4]) + 4, io.SEEK_CUR)
    file.seek(0)


def _png_signal(path: Path) -> tuple[int, int]:
    """Read transfer and primaries from the cICP chunk (PNG, third edition), which precedes the pixels."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            if head[4:] == b"cICP" and len(body := file.read(2)) == 2:
                return body[1], body[0]
            file.seek(int.from_bytes(head[:4]) + 4, io.SEEK_CUR)
    return 0, 0


def _avif_signal(path: Path) -> tuple[int, int]:
    """Read transfer and primaries from the colr box, as FFmpeg finds it."""
    try:
        with path.open("rb") as source, av.open(source, "r", container_options=AVIF_OPTIONS) as file:
            context = file.streams.video[0].codec_context
            return context.color_trc, context.color_primaries
    except (av.FFmpegError, OSError, IndexError, AttributeError):
        return 0, 0


def _from_sixteen_bits(image: Image.Image, path: Path) -> Frames:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise MediaError(f"{path} holds values from {values.min()} to {values.max()}, the limits are 0 and 65535")
    grey = ((values + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return np.repeat(grey[..., None], 3, axis=2)
