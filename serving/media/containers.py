"""Inspect the top level of MP4 and Matroska files: their kind, their order, and whether they are truncated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from av.container import InputContainer

from zoetrope.serving.media.errors import MediaError

BOXES = ("mp4", "mov", "3gp")
ELEMENTS = ("mkv", "webm")


def container_name(file: InputContainer, path: Path) -> str:
    """Return "mp4", "mov", "3gp", "mkv", "webm", or FFmpeg's name of any other format."""
    names = file.format.name.split(",")
    if "mp4" in names:
        brand = file.metadata.get("major_brand", "qt")  # old QuickTime files have no brand
        return "mov" if brand.startswith("qt") else "3gp" if brand.startswith("3g") else "mp4"
    if "matroska" in names:
        with path.open("rb") as head:
            return "webm" if b"\x42\x82\x84webm" in head.read(64) else "mkv"  # the DocType element, 4 bytes
    return names[0]


def is_faststart(path: Path) -> bool:
    """Tell whether "moov" precedes "mdat" among the top-level boxes of an MP4 file.

    Raises:
        MediaError: the boxes do not fill the file, or one of the two is missing.
    """
    order: list[bytes] = []
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        position = 0
        while position < end:
            file.seek(position)
            kind, size = _box(file, end - position)
            if not 8 <= size <= end - position:
                raise MediaError(
                    f"{path} is truncated or damaged: the box at byte {position} extends beyond the end of the file"
                )
            order.append(kind)
            position += size
    if b"moov" not in order or b"mdat" not in order:
        raise MediaError(f"{path} has no moov box or no mdat box")
    return order.index(b"moov") < order.index(b"mdat")


def _box(file: BinaryIO, remaining: int) -> tuple[bytes, int]:
    """Read type and size of the box at the file's position; size 0 if the header is incomplete."""
    header = file.read(16)
    if len(header) < 8:
        return b"", 0
    size, kind = int.from_bytes(header[:4], "big"), header[4:8]
    if size == 0:  # extends to the end of the file
        return kind, remaining
    if size == 1:  # a 64-bit size follows
        return kind, int.from_bytes(header[8:], "big") if len(header) == 16 else 0
    return kind, size


def check_segment(path: Path) -> None:
    """Check that a Matroska file ends where its segment does; players show a truncated one as a shorter video.

    Raises:
        MediaError: it does not.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.seek(_element_size(file) or 0, os.SEEK_CUR)  # the EBML header
        size = _element_size(file)
        if size is not None and file.tell() + size != end:
            raise MediaError(f"{path} is truncated or damaged: it does not end where its segment does")


def _element_size(file: BinaryIO) -> int | None:
    """Read the header of a top-level Matroska element: a four-byte id and a variable-length size, whose first byte
    gives the number of further bytes by its leading zeros. None for an unknown size (all ones), as live recorders
    write."""
    first = file.read(5)[4:]
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    size = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    return None if size == (1 << 7 * (extra + 1)) - 1 else size
