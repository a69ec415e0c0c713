"""The parts of an unfinished upload in the artifact store."""

from __future__ import annotations

from zoetrope.serving.jobs.media_table import Media

PART_BYTES = 4 << 20  # stored at a time; what a broken stream received after the last part is lost


def part_key(media_id: str, offset: int) -> str:
    """Return the key of the part that begins at ``offset``."""
    return f"uploads/{media_id}/{offset}"


def part_keys(media: Media) -> list[str]:
    """Return the keys of all parts that an upload may have left."""
    return [part_key(media.id, offset) for offset in range(0, media.size_bytes or 0, PART_BYTES)]
