"""Picture files to RGB pixels."""

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

from model.fit import Frames
from model.inputs import Picture
from serving.media.errors import MediaError
from serving.media.formats import ANIMATED, PICTURES
from serving.media.tone import BT709, BT2020, CHROMATICITIES, HDR, tone_map

MAX_PICTURE_PIXELS = 64_000_000
MAX_CHUNKS = 1_000  # of a PNG, beside those of pixels and frames
HEAD_BYTES = 64  # that tell what a file is
AVIF_BRANDS = (b"avif", b"avis")
AVIF_OPTIONS = {"format_whitelist": "mov,mp4", "codec_whitelist": "libdav1d,av1", "protocol_whitelist": "none"}
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

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
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
register_heif_opener()  # HEIC by way of Image.OPEN, as all others


def read_picture(path: Path) -> Picture:
    """Decode a picture, upright and in 8-bit RGB.

    * EXIF's orientation is applied, and what HEIC and AVIF have in its place.
    * A colour profile (ICC) is converted to sRGB; high dynamic range (PQ or HLG by cICP in PNG, by nclx in AVIF and
      HEIC) to SDR, as that of clips. What has neither is taken for sRGB.
    * Alpha, or a transparent colour, is laid over white.
    * Grey, palette and CMYK become RGB; 16-bit values are divided by 257 (colour ones
      by Pillow, which cuts the low byte).
    * Of an animation (GIF, WebP, PNG, AVIF) it is the first frame, or the one that programs show that know none.

    Raises:
        MediaError: the file cannot be read, is no picture of `serving.media.formats.PICTURES`, has more than
            MAX_PICTURE_PIXELS (found before any is decoded), is cut short or damaged, or holds floating-point values,
            which have no fixed range.
    """
    with open_picture(path) as image:
        return Picture(pixels(image, path))


def picture_format(path: Path) -> str | None:
    """Tell which of `serving.media.formats.PICTURES` a file's first bytes announce; its name does not matter.

    Raises:
        MediaError: it cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}") from error
    Image.init()  # loads the plugins: for who reads an AVIF first, too
    if head[4:8] == b"ftyp":  # a box of brands: the major one may be of both
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
    """Open a picture, of which nothing is decoded yet.

    Raises:
        MediaError: as `read_picture`, also from within the context, where decoders meet what is damaged.
    """
    name = picture_format(path)
    if name is None:
        raise MediaError(f"{path} is no picture that can be read ({', '.join(PICTURES)})")
    try:
        # Not Image.open: its own limit warns or raises before ours can tell the size. No name, or Pillow may open it.
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
    except Exception as error:  # decoders meet damaged files with errors of almost any kind
        reason = " ".join(str(error).split())[:200]
        raise MediaError(f"{path} cannot be decoded as {name}: {reason or type(error).__name__}") from error


def frame_count(image: ImageFile.ImageFile) -> int:
    """Count the frames of an animation; 1 of any other picture, also of one that has pages or a gallery."""
    count = int(getattr(image, "n_frames", 1)) if image.format in ANIMATED else 1
    return count - first_frame(image)


def first_frame(image: ImageFile.ImageFile) -> int:
    """Give the index of an animation's first frame: 1 where the first picture is only for programs that know none."""
    return int(bool(image.info.get("default_image")))


def pixels(image: ImageFile.ImageFile, path: Path) -> Frames:
    """Decode the frame that the picture is at to ``[H, W, 3]``, as `read_picture` describes it."""
    signal = _signal(image, path)
    image.load()
    try:
        return _rgb(_upright(image), path, signal)
    except ValueError as error:
        raise MediaError(f"{path} of mode {image.mode} cannot be made RGB: {error}") from error


def upright_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Give width and height of a picture that is loaded, as displayed."""
    return _upright(image).size


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a picture is worth showing when its EXIF data are damaged
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
    """Convert from the colour profile that the file holds, if it holds one for its own mode that can be read."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "L", "CMYK") or "transparency" in image.info:
        return image
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        return ImageCms.profileToProfile(image, io.BytesIO(profile), SRGB, outputMode=target) or image
    except (ImageCms.PyCMSError, OSError, ValueError):  # then its numbers are as good as those of a file without one
        return image


def _in_sdr(rgb: Frames, signal: tuple[int, int] | None) -> Frames:
    if signal is None:
        return rgb
    red, green, blue = (rgb[..., index].astype(np.uint16) * 257 for index in range(3))
    return tone_map(*signal)(red, green, blue)


def _signal(image: ImageFile.ImageFile, path: Path) -> tuple[int, int] | None:
    """Find transfer and primaries (ITU-T H.273) of a picture of high dynamic range or a wide gamut; None: any other."""
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
    """Refuse a PNG with so many chunks beside those of its pixels that looking at them takes longer than the pixels.

    Raises:
        MediaError: there are more than MAX_CHUNKS.
    """
    file.seek(8)
    others = 0
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        others += head[4:] not in (b"IDAT", b"fdAT", b"fcTL")
        if others > MAX_CHUNKS:
            raise MediaError(f"{path} has more than {MAX_CHUNKS} chunks beside its pixels, the limit")
        file.seek(int.from_bytes(head[:4]) + 4, io.SEEK_CUR)
    file.seek(0)


def _png_signal(path: Path) -> tuple[int, int]:
    """Read the chunk cICP (PNG, third edition), which stands before the pixels."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            if head[4:] == b"cICP" and len(body := file.read(2)) == 2:
                return body[1], body[0]
            file.seek(int.from_bytes(head[:4]) + 4, io.SEEK_CUR)
    return 0, 0


def _avif_signal(path: Path) -> tuple[int, int]:
    """Read the box colr, as FFmpeg finds it."""
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
