"""Cut a clip that is longer than one segment into overlapping segments."""

from __future__ import annotations

from zoetrope.model.request.specs import SegmentFrames


def split(frames: int, longest: int, overlap: int, temporal: int) -> tuple[SegmentFrames, ...]:
    """Cover ``frames`` by segments of at most ``longest``, each taking over ``overlap`` frames from the one before.

    Args:
        frames, longest, overlap: 1 modulo ``temporal``, frames of the autoencoder; ``overlap`` below ``longest``.

    Raises:
        ValueError: a number is not 1 modulo ``temporal``, or the overlap leaves nothing new.
    """
    for name, value in (("frames", frames), ("longest", longest), ("overlap", overlap)):
        if value < 1 or (value - 1) % temporal:
            raise ValueError(f"{name} is {value}, must be 1 modulo {temporal}")
    if frames <= longest:
        return (SegmentFrames(0, frames, 0),)
    if overlap >= longest:
        raise ValueError(f"overlap is {overlap}, must be below {longest}")
    spans = [SegmentFrames(0, longest, 0)]
    while (done := spans[-1].first + spans[-1].frames) < frames:
        first = done - overlap
        spans.append(SegmentFrames(first, min(longest, frames - first), overlap))
    return tuple(spans)
