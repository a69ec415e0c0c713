"""Write a frame as a tagged picture file, verified by reading it back.

PNG and WebP are lossless; JPEG has quality 95 and full-resolution chroma (4:4:4). PNG stores tags in text chunks. The
others store them in EXIF: all as JSON in the user comment, title and comment also in the fields that viewers show.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from zoetrope.model.media.resize import Frames
from zoetrope.serving.media.errors import MediaError, NotWritable
from zoetrope.serving.media.info import ProbedMedia

PictureContainer: TypeAlias = Literal["png", "webp", "jpg"]


@dataclass(frozen=True)
class PictureEncoding:
    """Pillow's name and options of a format; ``max_error`` is the allowed mean absolute error of the values."""

    format: str
    options: Mapping[str, Any]
    max_error: float


PICTURE_ENCODINGS: dict[PictureContainer, PictureEncoding] = {
    "png": PictureEncoding("PNG", {}, 0.0),
    "webp": PictureEncoding("WEBP", {"lossless": True}, 0.0),
    "jpg": PictureEncoding("JPEG", {"quality": 95, "subsampling": "4:4:4"}, 8.0),
}
ASCII = b"ASCII\0\0\0"  # character code at the start of an EXIF user comment
FIELDS = {"title": ExifTags.Base.DocumentName, "comment": ExifTags.Base.ImageDescription}


def write_picture(
    path: Path, frame: Frames, width: int, height: int, container: PictureContainer, metadata: Mapping[str, str]
) -> ProbedMedia:
    """Write a frame as a picture and verify it by reading it back.

    Args:
        frame: uint8 ``[height, width, 3]``.
        metadata: tags; see `read_tags`.

    Returns:
        What the finished file contains.

    Raises:
        MediaError: the frame has another shape, or the file does not match it; no file is left.
        NotWritable: the file cannot be written.
    """
    if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
        wanted = f"uint8 [{height}, {width}, 3]"
        raise MediaError(f"the frame is {frame.dtype} {list(frame.shape)}, the file takes {wanted}")
    encoding = PICTURE_ENCODINGS[container]
    tags: dict[str, Any] = {"pnginfo": _chunks(metadata)} if container == "png" else {"exif": _exif(metadata)}
    try:
        content = io.BytesIO()  # not directly to the file: Pillow does not report a JPEG truncated by a full disk
        Image.fromarray(np.ascontiguousarray(frame)).save(content, encoding.format, **encoding.options, **tags)
        path.write_bytes(content.getbuffer())
        return _verify(path, frame, container)
    except (MediaError, OSError, ValueError) as error:
        path.unlink(missing_ok=True)
        if isinstance(error, MediaError):
            raise
        raise NotWritable(path, error) from error


def read_tags(path: Path) -> dict[str, str] | None:
    """Read the tags that `write_picture` wrote, without decoding pixels; None if the file has none of its formats."""
    try:
        with Image.open(path, formats=[encoding.format for encoding in PICTURE_ENCODINGS.values()]) as image:
            return _tags(image)
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for broken files
        return None


def _verify(path: Path, frame: Frames, container: PictureContainer) -> ProbedMedia:
    encoding, (height, width) = PICTURE_ENCODINGS[container], frame.shape[:2]
    with Image.open(path, formats=[encoding.format]) as image:
        image.load()
        found = (image.size, image.mode, getattr(image, "n_frames", 1))
        tags = _tags(image)
        pixels = np.asarray(image)
    wanted = ((width, height), "RGB", 1)
    names = ("size", "mode", "frames")
    wrong = [f"{name} {a} instead of {b}" for name, a, b in zip(names, found, wanted, strict=True) if a != b]
    if not wrong:
        distance = float(np.abs(pixels.astype(np.int16) - frame).mean())
        if distance > encoding.max_error:
            wrong.append(f"pixels that differ from the frame by {distance:.1f} on average")
    if wrong:
        raise MediaError(f"{path} has {', '.join(wrong)}")
    name = encoding.format.lower()
    return ProbedMedia(name, name, "RGB", width, height, 1, 0.0, 0.0, None, tags, "image")


def _chunks(metadata: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for name, value in metadata.items():
        keyword = name.capitalize() if name in FIELDS else name  # PNG predefines Title and Comment
        chunks.add_text(keyword, value)
    return chunks


def _exif(metadata: Mapping[str, str]) -> Image.Exif:
    exif = Image.Exif()
    for name, field in FIELDS.items():
        if name in metadata:
            exif[field] = metadata[name]
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = ASCII + json.dumps(dict(metadata)).encode()
    return exif


def _tags(image: Image.Image) -> dict[str, str]:
    """Return the tags by lower-case name."""
    if image.format == "PNG":
        return {name.lower(): value for name, value in getattr(image, "text", {}).items()}
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if not isinstance(comment, bytes) or not comment.startswith(ASCII):
        return {}
    try:
        found = json.loads(comment.removeprefix(ASCII))
    except ValueError:
        return {}
    return {str(name).lower(): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
