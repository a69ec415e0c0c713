"""What the outside of an MP4 or Matroska file tells: its kind, its order, and whether it is cut short."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from av.container import InputContainer

from serving.media.errors import MediaError

BOXES = ("mp4", "mov", "3gp")
ELEMENTS = ("mkv", "webm")


def container_name(file: InputContainer, path: Path) -> str:
    """Name the format: "mp4", "mov", "3gp", "mkv", "webm", or FFmpeg's name of another one."""
    names = file.format.name.split(",")
    if "mp4" in names:
        brand = file.metadata.get("major_brand", "qt")  # QuickTime is older than brands
        return "mov" if brand.startswith("qt") else "3gp" if brand.startswith("3g") else "mp4"
    if "matroska" in names:
        with path.open("rb") as head:
            return "webm" if b"\x42\x82\x84webm" in head.read(64) else "mkv"  # the element DocType, 4 bytes
    return names[0]


def is_faststart(path: Path) -> bool:
    """Whether "moov" precedes "mdat" among the top-level boxes of an MP4 file.

    Raises:
        MediaError: the boxes do not add up to the file.
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
                    f"{path} is cut short or damaged: its box at byte {position} does not end within the file"
                )
            order.append(kind)
            position += size
    if b"moov" not in order or b"mdat" not in order:
        raise MediaError(f"{path} has no index or no data")
    return order.index(b"moov") < order.index(b"mdat")


def _box(file: BinaryIO, remaining: int) -> tuple[bytes, int]:
    """Kind and size of the box at the file's position; size 0 where its header is incomplete."""
    header = file.read(16)
    if len(header) < 8:
        return b"", 0
    size, kind = int.from_bytes(header[:4], "big"), header[4:8]
    if size == 0:  # to the end of the file
        return kind, remaining
    if size == 1:  # the size follows, in 64 bits
        return kind, int.from_bytes(header[8:], "big") if len(header) == 16 else 0
    return kind, size


def check_segment(path: Path) -> None:
    """Make sure that a Matroska file reaches to the end of its segment; players read one that is cut short as a shorter
    video.

    Raises:
        MediaError: it does not.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.seek(_element_size(file) or 0, os.SEEK_CUR)  # the EBML header
        size = _element_size(file)
        if size is not None and file.tell() + size != end:
            raise MediaError(f"{path} is cut short or damaged: it does not end where its segment does")


def _element_size(file: BinaryIO) -> int | None:
    """Read the head of a top-level Matroska element: a four-byte id, and a size whose first byte tells, by its leading
    zeros, how many more bytes belong to it. None where the size is left open (all ones), as live recorders do."""
    first = file.read(5)[4:]
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    size = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    return None if size == (1 << 7 * (extra + 1)) - 1 else size
