"""What a finished video or picture says of how it was made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from serving.media.errors import MediaError
from serving.media.picture_writer import read_tags
from serving.media.streams import open_media

PREFIX = "zoetrope_"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # Matroska shows names in capitals; these survive it
MAX_VALUE_CHARS = 1_024


def tagged(values: Mapping[str, str]) -> dict[str, str]:
    """Values as tags of a file.

    Raises:
        MediaError: a name is not of lower-case letters, digits and underscores, or a value too long or of several
            lines.
    """
    for name, value in values.items():
        if not NAME.fullmatch(name):
            raise MediaError(f"{name!r} is no name of a tag: up to 64 of a-z, 0-9 and _, a letter first")
        if len(value) > MAX_VALUE_CHARS or not value.isprintable():
            limit = f"at most {MAX_VALUE_CHARS}, all printable"
            raise MediaError(f"the value of the tag {name} has {len(value)} characters; {limit}, are allowed")
    return {PREFIX + name: value for name, value in values.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The values that `tagged` put there, by their names; empty for a file that is not ours. Nothing is decoded.

    Raises:
        MediaError: the file cannot be read.
    """
    found = read_tags(path)
    if found is None:
        with open_media(path) as file:
            found = {name.lower(): value for name, value in file.metadata.items()}
    return {name.removeprefix(PREFIX): value for name, value in found.items() if name.startswith(PREFIX)}
