"""Tags of a finished video or picture that record how it was made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from zoetrope.serving.media.errors import MediaError
from zoetrope.serving.media.picture_writer import read_tags
from zoetrope.serving.media.streams import open_media

PREFIX = "zoetrope_"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # survives Matroska, which shows names in upper case
MAX_VALUE_CHARS = 1_024


def tagged(values: Mapping[str, str]) -> dict[str, str]:
    """Convert values to tags of a file.

    Raises:
        MediaError: a name does not match NAME, or a value is too long or not printable.
    """
    for name, value in values.items():
        if not NAME.fullmatch(name):
            raise MediaError(f"tag name {name!r} must have 1 to 64 characters of a-z, 0-9 and _, a letter first")
        if len(value) > MAX_VALUE_CHARS or not value.isprintable():
            limit = f"must have at most {MAX_VALUE_CHARS} characters, all printable"
            raise MediaError(f"the value of tag {name} has {len(value)} characters; it {limit}")
    return {PREFIX + name: value for name, value in values.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """Read the values that `tagged` wrote, without decoding; empty for a file that has none.

    Raises:
        MediaError: the file cannot be read.
    """
    found = read_tags(path)
    if found is None:
        with open_media(path) as file:
            found = {name.lower(): value for name, value in file.metadata.items()}
    return {name.removeprefix(PREFIX): value for name, value in found.items() if name.startswith(PREFIX)}
