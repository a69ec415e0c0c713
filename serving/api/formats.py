"""Formats of the files that jobs make: their MIME types, and how files are named."""

from __future__ import annotations

from pathlib import PurePath

from zoetrope.model.request.tasks import PICTURE_CONTAINERS, Container

MIME_TYPES: dict[Container, str] = {
    "mp4": "video/mp4",
    "mkv": "video/x-matroska",
    "png": "image/png",
    "webp": "image/webp",
    "jpg": "image/jpeg",
}
# The first suffix of a format is the one that we give.
SUFFIXES: dict[str, Container] = {
    ".mp4": "mp4",
    ".mkv": "mkv",
    ".png": "png",
    ".webp": "webp",
    ".jpg": "jpg",
    ".jpeg": "jpg",
}


def container_of(name: PurePath) -> Container | None:
    """Give the format that a file's name means, in capitals or not; None where it means none."""
    return SUFFIXES.get(name.suffix.lower())


def file_name(container: Container) -> str:
    """Name what a job made: ``video.mp4``, ``picture.png``."""
    return f"{'picture' if container in PICTURE_CONTAINERS else 'video'}.{container}"


def enum_name(container: Container) -> str:
    """Give the name that a format has among VideoFormat's values in the proto."""
    return f"VIDEO_FORMAT_{container.upper()}"
