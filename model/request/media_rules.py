"""Check a task's media against a model by what is known before they are decoded. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from zoetrope.model.request.tasks import MEDIA_FIELDS, ImageToVideo, MediaInfo, ModelCard, Task, Violation

MAX_DECODED_BYTES = 4 << 30  # of a clip's frames, which are all in memory while it is read
SLACK_SECONDS = 0.1  # containers round, and a last frame may be a little longer


def media_violations(task: Task, card: ModelCard, media: Mapping[str, MediaInfo], fps: int) -> Iterator[Violation]:
    """Yield what a family's conditioner would refuse, and clips that are too long.

    Args:
        media: what is known of each of the task's media, by the field that names it. fps: of the result.
    """
    if isinstance(task, ImageToVideo) and not card.ends_with_frame:
        if task.loop:
            yield Violation("loop", f"true, but {card.name} cannot end with a given frame")
        if task.last_frame is not None:
            yield Violation("last_frame", f"is given, but {card.name} cannot end with a given frame")
    for field, info in media.items():
        if info.kind != "clip":
            continue
        stem = field.partition(".")[0]
        if stem == "references" and not card.reference_clips:
            yield Violation(
                field, f"is a clip of {info.frames} frames, but {card.name} takes only pictures as references"
            )
            continue
        longest = math.inf if stem == "video" else MEDIA_FIELDS[stem].takes.max_seconds  # checked by `resolve`
        # Our own clips are longer by some frames if their last frame was given.
        slack = SLACK_SECONDS + (card.temporal / info.fps if stem == "clip" and info.fps else 0.0)
        if info.seconds > longest + slack:
            yield Violation(field, f"lasts {info.seconds:.2f} s, at most {longest:g} s are allowed")
            continue
        size = round(info.seconds * fps) * info.width * info.height * 3
        if size > MAX_DECODED_BYTES:
            yield Violation(
                field,
                f"lasts {info.seconds:.2f} s at {info.width}x{info.height}: read at {fps} fps that takes {size} bytes, "
                f"at most {MAX_DECODED_BYTES} are allowed",
            )
