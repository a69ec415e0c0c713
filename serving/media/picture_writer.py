"""A frame to a picture file, checked by reading it back, with what made it in its tags.

PNG and WebP are without loss; JPEG has quality 95 and colours at full resolution (4:4:4). PNG keeps tags in text
chunks; the others in EXIF: all of them as JSON in the user comment, title and comment in the fields that viewers show.
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

from model.fit import Frames
from serving.media.errors import MediaError, NotWritable
from serving.media.info import MediaInfo

PictureContainer: TypeAlias = Literal["png", "webp", "jpg"]


@dataclass(frozen=True)
class Saving:
    """How Pillow writes and names a format; ``worst`` is how far values may be from the frame's, on average."""

    format: str
    options: Mapping[str, Any]
    worst: float


SAVING: dict[PictureContainer, Saving] = {
    "png": Saving("PNG", {}, 0.0),
    "webp": Saving("WEBP", {"lossless": True}, 0.0),
    "jpg": Saving("JPEG", {"quality": 95, "subsampling": "4:4:4"}, 8.0),
}
ASCII = b"ASCII\0\0\0"  # how EXIF's user comments say what they are made of
FIELDS = {"title": ExifTags.Base.DocumentName, "comment": ExifTags.Base.ImageDescription}


def write_picture(
    path: Path, frame: Frames, width: int, height: int, container: PictureContainer, metadata: Mapping[str, str]
) -> MediaInfo:
    """Write a frame as a picture and read it back.

    Args:
        frame: uint8 ``[height, width, 3]``.
        metadata: tags; see `read_tags`.

    Returns:
        What the finished file holds.

    Raises:
        MediaError: the frame is of another shape, or the file does not hold the frame; there is no file then.
        NotWritable.
    """
    if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
        wanted = f"uint8 [{height}, {width}, 3]"
        raise MediaError(f"the frame is {frame.dtype} {list(frame.shape)}, the file takes {wanted}")
    saving = SAVING[container]
    tags: dict[str, Any] = {"pnginfo": _chunks(metadata)} if container == "png" else {"exif": _exif(metadata)}
    try:
        content = io.BytesIO()  # not the file: Pillow says nothing of a JPEG that a full disk cut short
        Image.fromarray(np.ascontiguousarray(frame)).save(content, saving.format, **saving.options, **tags)
        path.write_bytes(content.getbuffer())
        return _verify(path, frame, container)
    except (MediaError, OSError, ValueError) as error:
        path.unlink(missing_ok=True)
        if isinstance(error, MediaError):
            raise
        raise NotWritable(path, error) from error


def read_tags(path: Path) -> dict[str, str] | None:
    """Give the tags that `write_picture` put there; None where the file is none of its formats. No pixel is decoded."""
    try:
        with Image.open(path, formats=[saving.format for saving in SAVING.values()]) as image:
            return _tags(image)
    except (OSError, ValueError, SyntaxError):  # Pillow's for broken files
        return None


def _verify(path: Path, frame: Frames, container: PictureContainer) -> MediaInfo:
    saving, (height, width) = SAVING[container], frame.shape[:2]
    with Image.open(path, formats=[saving.format]) as image:
        image.load()
        found = (image.size, image.mode, getattr(image, "n_frames", 1))
        tags = _tags(image)
        pixels = np.asarray(image)
    wanted = ((width, height), "RGB", 1)
    names = ("size", "mode", "frames")
    wrong = [f"{name} {a} instead of {b}" for name, a, b in zip(names, found, wanted, strict=True) if a != b]
    if not wrong:
        distance = float(np.abs(pixels.astype(np.int16) - frame).mean())
        if distance > saving.worst:
            wrong.append(f"pixels that are {distance:.1f} from the frame's on average")
    if wrong:
        raise MediaError(f"{path} has {', '.join(wrong)}")
    name = saving.format.lower()
    return MediaInfo(name, name, "RGB", width, height, 1, 0.0, 0.0, None, tags, "image")


def _chunks(metadata: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for name, value in metadata.items():
        keyword = name.capitalize() if name in FIELDS else name  # PNG has Title and Comment among its own
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
    """By their names, in lower case."""
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
