"""How the API names jobs, their videos and media: ``operations/vid_...``, ``videos/vid_...`` and ``media/med_...``."""

from __future__ import annotations

import base64
import secrets

OPERATIONS = "operations/"
VIDEOS = "videos/"  # the id is that of the operation
MEDIA = "media/"
JOB_ID = "vid_"
MEDIA_ID = "med_"
ID_BYTES = 15  # 120 bits, which base32 writes without padding


def full_name(prefix: str, name: str) -> str:
    """Return the name with its prefix, which may be missing. A video's name stands for its operation's."""
    bare = name.removeprefix(VIDEOS) if prefix == OPERATIONS else name
    return bare if bare.startswith(prefix) else prefix + bare


def new_id(prefix: str) -> str:
    """120 random bits in letters and digits that need no quoting anywhere."""
    return id_from(prefix, secrets.token_bytes(ID_BYTES))


def id_from(prefix: str, data: bytes) -> str:
    """The id that stands for the first 120 bits of ``data``."""
    return prefix + base64.b32encode(data[:ID_BYTES]).decode().lower()
